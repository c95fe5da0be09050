"""Spatial statistics: the mean, and the mean and variance, of every channel over positions.

All pooled attentions take their statistics from here, so that what "global" means is decided once.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def statistics_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """What statistics of a `dtype` map are computed in: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


def _pivot(x: Float[Array, "... H W C"]) -> Float[Array, "... 1 1 C"]:
    """One value of each channel. `x - pivot` is exact where a channel hardly varies."""
    return jax.lax.stop_gradient(x[..., :1, :1, :])


def spatial_mean(x: Float[Array, "... H W C"]) -> Float[Array, "... 1 1 C"]:
    """Mean over height and width, in float32 or better.

    Equivalent to `x.mean((-3, -2), keepdims=True)`, but summed about one value of the channel, so
    that the spread of a channel survives a mean thousands of times as large.
    """
    chex.assert_rank(x, {3, 4, 5})
    x = x.astype(statistics_dtype(x.dtype))
    pivot = _pivot(x)
    return pivot + jnp.mean(x - pivot, axis=(-3, -2), keepdims=True)


def centred_and_variance(
    x: Float[Array, "... H W C"],
) -> tuple[Float[Array, "... H W C"], Float[Array, "... 1 1 C"]]:
    """`x` less its spatial mean, and its (biased) spatial variance, in float32 or better.

    Computed in two passes about one value of the channel: mean 1000 with standard deviation 0.01
    keeps its signal in float32, where E[x^2] - E[x]^2 returns noise.
    """
    chex.assert_rank(x, {3, 4, 5})
    x = x.astype(statistics_dtype(x.dtype))
    shifted = x - _pivot(x)
    centred = shifted - jnp.mean(shifted, axis=(-3, -2), keepdims=True)
    return centred, jnp.mean(jnp.square(centred), axis=(-3, -2), keepdims=True)
