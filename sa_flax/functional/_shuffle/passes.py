"""Shuffle attention in as few passes over the map as it can be done in: two reads and one write
forward, four reads and one write backward, keeping only the input and three numbers per channel.

With u = x - pivot (one value per channel, see `moments`), both gates are one formula,

    out = channel_shuffle(x * sigmoid(a * u + b), 2)

with a and b per (picture, channel), a = 0 in the channel half of each group. Maps here are
(B, H, W, C), parameters the six vectors in the order of `ShuffleAttentionParams`. Nothing here is
differentiated by JAX: `derivative` puts the two passes together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from sa_flax.functional._shuffle.cpu import pin, pinned, two_sums, unshuffled
from sa_flax.functional.statistics import statistics_dtype

Vectors = tuple[Array, ...]  # the six parameters


class Statistics(NamedTuple):
    """What the backward pass keeps besides x: per picture and channel, (B, C)."""

    pivot: Array
    offset: Array  # spatial mean less pivot
    variance: Array


def _shuffled(x: Array) -> Array:
    """(..., C) -> (..., C/2, 2): the shuffle, short of its last reshape."""
    return x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2).swapaxes(-1, -2)


def _per_channel(first: Array, second: Array, groups: int) -> Array:
    """(C,) from the vectors of the first (channel) and the second (spatial) half of a group."""
    return jnp.tile(jnp.concatenate([first, second]), groups)


def moments(x: Array, *, tuned: bool) -> Statistics:
    """Mean and variance over rows and columns of x, (B, H, W, C), in one pass about a pivot.

    The pivot is the mean of the first row. The square of its distance from the mean is at most H
    times the variance, so that at most a factor H of the precision is lost, whatever is in x; with
    one pixel for a pivot it would be H W, with none there is no bound.
    """
    dtype = statistics_dtype(x.dtype)
    row = x[:, 0].astype(dtype)
    start = row[:, :1]
    (pivot,) = pinned((start[:, 0] + jnp.mean(row - start, axis=1),), tuned=tuned)

    def term(columns):
        u = columns.astype(dtype) - pivot[:, None, None]
        return u, u * u

    first, second = two_sums(term, (x,), tuned=tuned)
    count = x.shape[1] * x.shape[2]
    offset = first / count
    return Statistics(pivot, offset, jnp.maximum(second / count - offset * offset, 0))


def _channel_vectors(params: Vectors, groups: int, dtype) -> tuple[Array, Array, Array]:
    """Inside each channel's sigmoid: scale of the normalised map, constant, scale of the mean."""
    cweight, cbias, sweight, sbias, scale, bias = (v.astype(dtype) for v in params)
    zero = jnp.zeros_like(scale)
    return (
        _per_channel(zero, sweight * scale, groups),
        _per_channel(cbias, sbias + sweight * bias, groups),
        _per_channel(cweight, zero, groups),
    )


def gate_coefficients(
    statistics: Statistics, params: Vectors, groups: int, epsilon: float
) -> tuple[Array, Array, Array]:
    """a and b of `sigmoid(a * (x - pivot) + b)`, and 1 / sqrt(variance + epsilon): (B, C) each."""
    pivot, offset, variance = statistics
    scale, constant, by_mean = _channel_vectors(params, groups, pivot.dtype)
    deviation = lax.rsqrt(variance + epsilon)
    a = scale[None] * deviation
    return a, constant[None] + by_mean[None] * (pivot + offset) - a * offset, deviation


def forward(x, *params, groups, epsilon, shuffle, tuned):
    """(out, statistics) of x, (B, H, W, C)."""
    statistics = moments(x, tuned=tuned)
    a, b, _ = gate_coefficients(statistics, params, groups, epsilon)
    arrange = _shuffled if shuffle else lambda v: v
    vectors = tuple(arrange(v) for v in (a, b, statistics.pivot))
    a, b, pivot = (v[:, None, None] for v in pinned(vectors, tuned=tuned))
    wide = arrange(x).astype(pivot.dtype)
    out = (wide * jax.nn.sigmoid(a * (wide - pivot) + b)).astype(x.dtype)
    return ((pin(out) if tuned and shuffle else out).reshape(x.shape), *statistics)


def backward(x, pivot, offset, variance, *rest, groups, epsilon, shuffle, tuned):
    """Cotangents of x and the six vectors, from x, its statistics, the vectors and out's one."""
    *params, g = rest
    statistics = Statistics(pivot, offset, variance)
    a, b, deviation = gate_coefficients(statistics, tuple(params), groups, epsilon)
    dtype = pivot.dtype
    channels = x.shape[-1]
    count = x.shape[1] * x.shape[2]

    # First pass, over channels in the order of out: sums of dz = d out / d (a u + b) and dz u.
    arrange = _shuffled if shuffle else lambda v: v
    vectors = tuple(arrange(v) for v in (a, b, pivot))
    sa, sb, sp = (v[:, None, None] for v in pinned(vectors, tuned=tuned))

    def term(x, g):
        x = arrange(x).astype(dtype)
        g = g.reshape(x.shape).astype(dtype)
        u = x - sp
        gate = jax.nn.sigmoid(sa * u + sb)
        dz = g * x * gate * (1 - gate)
        return dz, dz * u

    sums: tuple[Array, ...] = two_sums(term, (x, g), tuned=tuned)
    if shuffle:
        sums = tuple(
            s.reshape(-1, channels // 2, 2).swapaxes(1, 2).reshape(-1, channels) for s in sums
        )
    sum_dz, sum_dz_u = sums
    sum_dz_norm = deviation * (sum_dz_u - offset * sum_dz)

    # What reaches x through the statistics: c0 + c1 u.
    cweight, _, sweight, _, scale, bias = (v.astype(dtype) for v in params)
    zero = jnp.zeros_like(scale)
    c1 = -a * deviation * sum_dz_norm / count
    through_mean = _per_channel(cweight, zero, groups)[None] * sum_dz
    c0 = (through_mean - a * sum_dz) / count - c1 * offset

    # Second pass, over channels in their own order.
    coefficients = pinned((a, b, pivot, c0, c1), tuned=tuned)
    a, b, pivot, c0, c1 = (v.reshape(v.shape[0], 1, 1, 2, channels // 2) for v in coefficients)
    y = x.reshape(*x.shape[:-1], 2, channels // 2).astype(dtype)
    gy = unshuffled(g, tuned=tuned) if shuffle else g.reshape(y.shape)
    gy = gy.astype(dtype)
    u = y - pivot
    gate = jax.nn.sigmoid(a * u + b)
    dx = (gy * gate * (1 + a * y * (1 - gate)) + (c0 + c1 * u)).astype(x.dtype)
    dx = (pin(dx) if tuned else dx).reshape(x.shape)

    def by_half(v):  # (B, C) -> the sums over pictures and groups of either half, (k,) each
        return v.reshape(-1, 2, channels // (2 * groups)).sum(0)

    mean = statistics.pivot + offset
    sum_channel, sum_spatial = by_half(sum_dz)
    cotangents = (
        by_half(sum_dz * mean)[0],
        sum_channel,
        scale * by_half(sum_dz_norm)[1] + bias * sum_spatial,
        sum_spatial,
        sweight * by_half(sum_dz_norm)[1],
        sweight * sum_spatial,
    )
    cast = (c.astype(p.dtype) for c, p in zip(cotangents, params, strict=True))
    return (dx, *cast)
