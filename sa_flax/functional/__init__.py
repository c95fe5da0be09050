"""Pure functions on channels-last arrays; parameters are arguments; JAX only, never Flax."""

from sa_flax.functional.gating import SqueezeExciteParams, squeeze_excite
from sa_flax.functional.image_quality import psnr, ssim
from sa_flax.functional.noise import gaussian_noise, poisson_gaussian_noise, uniform_levels
from sa_flax.functional.pooling import spatial_mean
from sa_flax.functional.shuffle_attention import (
    ShuffleAttentionParams,
    channel_gate,
    channel_shuffle,
    channel_unshuffle,
    group_merge,
    group_norm,
    group_split,
    shuffle_attention,
    spatial_gate,
)

__all__ = [
    "ShuffleAttentionParams",
    "SqueezeExciteParams",
    "channel_gate",
    "channel_shuffle",
    "channel_unshuffle",
    "gaussian_noise",
    "group_merge",
    "group_norm",
    "group_split",
    "poisson_gaussian_noise",
    "psnr",
    "shuffle_attention",
    "spatial_gate",
    "spatial_mean",
    "squeeze_excite",
    "ssim",
    "uniform_levels",
]
