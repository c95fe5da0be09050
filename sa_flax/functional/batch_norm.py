"""Batch norm as PyTorch computes it: the reference that trained networks carry with them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_floating
from sa_flax.functional.layout import per_channel
from sa_flax.functional.statistics import statistics_dtype, widened


def check_channels(x: Any, *vectors: Array) -> Array:
    """x as a JAX array.

    Raises:
      ValueError: where it does not hold floating-point numbers, or a vector is not as long as x's
        last axis.
    """
    x = check_floating("batch_norm", x)
    lengths = {vector.shape for vector in vectors}
    if lengths != {x.shape[-1:]}:
        raise ValueError(
            f"batch_norm: x has shape {x.shape}, channels last; the vectors of mean, variance, "
            f"scale and bias have shapes {sorted(lengths)}. Each must have the length of x's last "
            f"axis."
        )
    return x


def batch_moments(x: Float[Array, "... C"]) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """Mean and biased variance of every channel over all other axes, in float32 or better.

    Two passes about one value of the channel, as in `statistics.centred_and_variance`.
    """
    x = check_floating("batch_moments", x)
    if x.size == 0:
        raise ValueError(f"batch_moments: there is no mean of nothing; x has shape {x.shape}.")
    flat = widened(x.reshape(-1, x.shape[-1]))
    pivot = jax.lax.stop_gradient(flat[:1])
    shifted = flat - pivot
    mean = jnp.mean(shifted, axis=0, keepdims=True)
    return (pivot + mean)[0], jnp.mean(jnp.square(shifted - mean), axis=0)


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

    Raises:
      ValueError: where x does not hold floating-point numbers, or has not as many channels, on its
        last axis, as the vectors are long.
    """
    x = check_channels(x, mean, variance, scale, bias)
    dtype = statistics_dtype(x.dtype)
    mean, variance, scale, bias = (
        per_channel(jnp.asarray(vector, dtype), x.ndim) for vector in (mean, variance, scale, bias)
    )
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return ((widened(x) - mean) * factor + bias).astype(x.dtype)
