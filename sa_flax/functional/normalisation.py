"""Batch norm as PyTorch computes it: the reference that trained networks carry with them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.pooling import statistics_dtype


def batch_moments(x: Float[Array, "... C"]) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """Mean and biased variance of every channel over all other axes, in float32 or better.

    Two passes about one value of the channel, as in `pooling.centred_and_variance`.
    """
    flat = x.reshape(-1, x.shape[-1]).astype(statistics_dtype(x.dtype))
    pivot = jax.lax.stop_gradient(flat[:1])
    shifted = flat - pivot
    mean = jnp.mean(shifted, axis=0)
    return pivot[0] + mean, jnp.mean(jnp.square(shifted - mean), axis=0)


def batch_norm(
    x: Float[Array, "... C"],
    mean: Float[Array, " C"],
    variance: Float[Array, " C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    epsilon: float = 1e-5,
) -> Float[Array, "... C"]:
    """`scale * (x - mean) / sqrt(variance + epsilon) + bias` for every channel, in x's dtype.

    Computed in float32, or float64 for float64. Ioffe and Szegedy, ICML 2015,
    https://arxiv.org/abs/1502.03167.
    """
    wide = x.astype(statistics_dtype(x.dtype))
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return ((wide - mean) * factor + bias).astype(x.dtype)
