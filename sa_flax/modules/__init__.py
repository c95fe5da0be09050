"""Flax (nnx) layers: parameters, and one call into `sa_flax.functional`."""

from sa_flax.modules.attention import (
    ShuffleAttention,
    SqueezeExcite,
    list_attentions,
    make_attention,
)
from sa_flax.modules.blocks import Downsample, ResidualBlock, Upsample

__all__ = [
    "Downsample",
    "ResidualBlock",
    "ShuffleAttention",
    "SqueezeExcite",
    "Upsample",
    "list_attentions",
    "make_attention",
]
