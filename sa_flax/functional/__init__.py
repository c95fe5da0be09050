"""Pure functions on channels-last arrays; parameters are arguments; JAX only, never Flax.

Each attention has a function, a class for its parameters (whose `init` makes them, from a key), and
a function `..._maps` that shows its gates or affinities.
"""

from sa_flax.functional._shuffle.api import shuffle_attention, shuffle_attention_maps
from sa_flax.functional._shuffle.parts import (
    ShuffleAttentionParams,
    channel_gate,
    channel_shuffle,
    channel_unshuffle,
    fold_channel_shuffle,
    group_merge,
    group_norm,
    group_split,
    spatial_gate,
)
from sa_flax.functional.affinities import (
    channel_attention,
    danet,
    danet_maps,
    non_local,
    non_local_maps,
    self_attention,
    self_attention_maps,
)
from sa_flax.functional.affinity_params import DANetParams, NonLocalParams, SelfAttentionParams
from sa_flax.functional.blockwise import attend
from sa_flax.functional.image_quality import psnr, ssim
from sa_flax.functional.jpeg import jpeg_compress
from sa_flax.functional.mask_params import (
    CBAMParams,
    DualAttentionParams,
    ECAParams,
    SGEParams,
    SqueezeExciteParams,
    eca_kernel_size,
)
from sa_flax.functional.masks import (
    cbam,
    cbam_maps,
    dual_attention,
    dual_attention_maps,
    eca,
    eca_maps,
    sge,
    sge_maps,
    squeeze_excite,
    squeeze_excite_maps,
)
from sa_flax.functional.noise import (
    blur,
    camera_noise,
    correlated_noise,
    from_linear,
    gaussian_noise,
    noise_before_resizing,
    poisson_gaussian_noise,
    to_linear,
    uniform_levels,
)
from sa_flax.functional.non_local_means import non_local_means
from sa_flax.functional.statistics import centred_and_variance, spatial_max, spatial_mean

__all__ = [
    "CBAMParams",
    "DANetParams",
    "DualAttentionParams",
    "ECAParams",
    "NonLocalParams",
    "SGEParams",
    "SelfAttentionParams",
    "ShuffleAttentionParams",
    "SqueezeExciteParams",
    "attend",
    "blur",
    "camera_noise",
    "cbam",
    "cbam_maps",
    "centred_and_variance",
    "channel_attention",
    "channel_gate",
    "channel_shuffle",
    "channel_unshuffle",
    "correlated_noise",
    "danet",
    "danet_maps",
    "dual_attention",
    "dual_attention_maps",
    "eca",
    "eca_kernel_size",
    "eca_maps",
    "fold_channel_shuffle",
    "from_linear",
    "gaussian_noise",
    "group_merge",
    "group_norm",
    "group_split",
    "jpeg_compress",
    "noise_before_resizing",
    "non_local",
    "non_local_maps",
    "non_local_means",
    "poisson_gaussian_noise",
    "psnr",
    "self_attention",
    "self_attention_maps",
    "sge",
    "sge_maps",
    "shuffle_attention",
    "shuffle_attention_maps",
    "spatial_gate",
    "spatial_max",
    "spatial_mean",
    "squeeze_excite",
    "squeeze_excite_maps",
    "ssim",
    "to_linear",
    "uniform_levels",
]
