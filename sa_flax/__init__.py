"""Attention for image denoising in JAX.

Pure functions live in ``sa_flax.functional``, Flax (nnx) layers and networks at the top level.
Names are imported on first use, so that ``import sa_flax`` costs nothing and the command line can
set XLA's options before JAX starts.
"""

import importlib
from typing import TYPE_CHECKING

from sa_flax.xla_flags import warn_of_wrong_numbers

__version__ = "0.1.0"

# name -> module that defines it
_EXPORTS = {
    "ShuffleAttention": "sa_flax.modules.shuffle_attention",
    "ShuffleAttentionParams": "sa_flax.functional",
    "SqueezeExcite": "sa_flax.modules.masks",
    "ECA": "sa_flax.modules.masks",
    "CBAM": "sa_flax.modules.masks",
    "SGE": "sa_flax.modules.masks",
    "DualAttention": "sa_flax.modules.masks",
    "NonLocal": "sa_flax.modules.affinities",
    "SelfAttention": "sa_flax.modules.affinities",
    "DANet": "sa_flax.modules.affinities",
    "list_attentions": "sa_flax.modules.attention",
    "make_attention": "sa_flax.modules.attention",
    "AttentionUNet": "sa_flax.models.unet",
    "create_model": "sa_flax.models.registry",
    "list_models": "sa_flax.models.registry",
    "Denoiser": "sa_flax.inference.denoiser",
    "from_pretrained": "sa_flax.models.saved",
    "list_pretrained": "sa_flax.models.saved",
    "save_pretrained": "sa_flax.models.saved",
}
_SUBMODULES = (
    "data",
    "functional",
    "inference",
    "models",
    "modules",
    "noise",
    "pictures",
    "porting",
    "training",
)

# In full: type checkers don't compute it. A test has it agree with the tables above.
__all__ = [
    "CBAM",
    "ECA",
    "SGE",
    "AttentionUNet",
    "DANet",
    "Denoiser",
    "DualAttention",
    "NonLocal",
    "SelfAttention",
    "ShuffleAttention",
    "ShuffleAttentionParams",
    "SqueezeExcite",
    "__version__",
    "create_model",
    "data",
    "from_pretrained",
    "functional",
    "inference",
    "list_attentions",
    "list_models",
    "list_pretrained",
    "make_attention",
    "models",
    "modules",
    "noise",
    "pictures",
    "porting",
    "save_pretrained",
    "training",
]

if TYPE_CHECKING:
    from sa_flax import (
        data,
        functional,
        inference,
        models,
        modules,
        noise,
        pictures,
        porting,
        training,
    )
    from sa_flax.functional import ShuffleAttentionParams
    from sa_flax.inference.denoiser import Denoiser
    from sa_flax.models.registry import create_model, list_models
    from sa_flax.models.saved import from_pretrained, list_pretrained, save_pretrained
    from sa_flax.models.unet import AttentionUNet
    from sa_flax.modules.affinities import DANet, NonLocal, SelfAttention
    from sa_flax.modules.attention import list_attentions, make_attention
    from sa_flax.modules.masks import CBAM, ECA, SGE, DualAttention, SqueezeExcite
    from sa_flax.modules.shuffle_attention import ShuffleAttention


warn_of_wrong_numbers()


if not TYPE_CHECKING:  # to a type checker, any name would be there

    def __getattr__(name: str):
        if name in _EXPORTS:
            return getattr(importlib.import_module(_EXPORTS[name]), name)
        if name in _SUBMODULES:
            return importlib.import_module(f"sa_flax.{name}")
        raise AttributeError(f"module 'sa_flax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
