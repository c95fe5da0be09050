"""Flax (nnx) layers: parameters, and one call into `sa_flax.functional`."""

from sa_flax.modules.affinities import DANet, NonLocal, SelfAttention
from sa_flax.modules.attention import list_attentions, make_attention
from sa_flax.modules.blocks import Downsample, ResidualBlock, Upsample
from sa_flax.modules.layer import set_window
from sa_flax.modules.masks import CBAM, ECA, SGE, DualAttention, SqueezeExcite
from sa_flax.modules.shuffle_attention import ShuffleAttention

__all__ = [
    "CBAM",
    "ECA",
    "SGE",
    "DANet",
    "Downsample",
    "DualAttention",
    "NonLocal",
    "ResidualBlock",
    "SelfAttention",
    "ShuffleAttention",
    "SqueezeExcite",
    "Upsample",
    "list_attentions",
    "make_attention",
    "set_window",
]
