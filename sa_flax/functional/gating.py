"""Masks: attentions that pool a map, turn the result into gates by a sigmoid, and multiply.

All are channels-last, (..., H, W, C), pure, and keep the dtype of the map.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from sa_flax.functional.pooling import spatial_mean


class SqueezeExciteParams(NamedTuple):
    """Two dense layers, C -> R -> C, of a squeeze-and-excitation gate."""

    reduce_kernel: Float[Array, "C R"]
    reduce_bias: Float[Array, " R"]
    expand_kernel: Float[Array, "R C"]
    expand_bias: Float[Array, " C"]


def squeeze_excite(
    x: Float[Array, "... H W C"], params: SqueezeExciteParams
) -> Float[Array, "... H W C"]:
    """Squeeze and excitation: `x * sigmoid(expand(relu(reduce(mean_HW(x)))))`.

    Costs one pass to pool and one to multiply, and 2 C R + R + C parameters. Hu et al.,
    "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507.
    """
    hidden = jax.nn.relu(spatial_mean(x) @ params.reduce_kernel + params.reduce_bias)
    gate = jax.nn.sigmoid(hidden @ params.expand_kernel + params.expand_bias)
    return (x * gate).astype(x.dtype)
