"""Shuffle attention's forward pass as a Pallas kernel: one read and one write of the map.

Each program holds all positions of some channels of one picture in fast memory, so that moments and
gates need the map from slow memory once. Checked in interpret mode on CPUs; for TPUs it has been
lowered, not run. GPUs take another one, `pallas_gpu_shuffle_attention`. Neither is chosen unasked
anywhere, as no benchmark shows that it wins.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from sa_flax.functional.pallas_gpu_shuffle_attention import gpu_forward, triton
from sa_flax.functional.pooling import statistics_dtype

# Bytes that one program may hold, input, output and what it computes: most of the vector memory of
# a TPU core.
_FAST_MEMORY = 12 * 2**20


def _channels_per_program(x: Array) -> int:
    """Channels of each half of the map, at most, for which a program's block fits."""
    positions, half = x.shape[1] * x.shape[2], x.shape[3] // 2
    one = 2 * positions * (2 * x.dtype.itemsize + 2 * statistics_dtype(x.dtype).itemsize)
    fits = [c for c in range(1, half + 1) if half % c == 0 and c * one <= _FAST_MEMORY]
    if not fits:
        raise ValueError(
            f"implementation='pallas' holds whole channels in fast memory: one pair of channels of "
            f"{x.shape[1]} x {x.shape[2]} {x.dtype.name} pixels needs {one / 2**10:.0f} KiB of "
            f"{_FAST_MEMORY / 2**10:.0f} KiB. Use implementation='fused'."
        )
    return max(fits)


def _kernel(x_ref, vectors_ref, out_ref, mean_ref, offset_ref, variance_ref, *, epsilon):
    """Blocks: x (1, HW, 2, c), vectors (3, 2, c), out (1, HW, c, 2), statistics (1, 2, c)."""
    x = x_ref[0].astype(vectors_ref.dtype)
    # About one value of the channel, then about the mean: a second pass costs no traffic here.
    mean = x[0] + jnp.mean(x - x[0], axis=0)
    centred = x - mean
    offset = jnp.mean(centred, axis=0)  # what rounding left in it
    variance = jnp.mean(jnp.square(centred - offset), axis=0)
    scale, shift, by_mean = vectors_ref[0], vectors_ref[1], vectors_ref[2]
    a = scale * lax.rsqrt(variance + epsilon)
    b = shift + by_mean * (mean + offset) - a * offset
    gated = x * jax.nn.sigmoid(a * centred + b)
    out_ref[0] = gated.swapaxes(-1, -2).astype(out_ref.dtype)  # the channel shuffle
    mean_ref[0], offset_ref[0], variance_ref[0] = mean, offset, variance


def pallas_forward(x: Array, vectors: Array, *, epsilon: float) -> tuple[Array, ...]:
    """(out, pivot, offset, variance) of a map (B, H, W, C), with `pivot` its mean.

    Args:
      x: the map.
      vectors: (3, C): scale of the normalised map, constant, and scale of the mean inside each
        channel's sigmoid.
      epsilon: added to the variance.

    Raises:
      ValueError: but for GPUs, where not even one pair of channels fits into fast memory.
      NotImplementedError: on GPUs, where this JAX has no Triton back end.
    """
    on_gpu = functools.partial(gpu_forward, epsilon=epsilon)
    if jax.default_backend() == "gpu":
        interpreted = functools.partial(on_gpu, interpret=True)
        return tuple(lax.platform_dependent(x, vectors, cpu=interpreted, default=on_gpu))
    batch, height, width, channels = x.shape
    positions, half = height * width, channels // 2
    block = _channels_per_program(x)
    dtype = vectors.dtype
    statistics = jax.ShapeDtypeStruct((batch, 2, half), dtype)
    statistics_spec = pl.BlockSpec((1, 2, block), lambda b, c: (b, 0, c))

    def call(x, vectors, *, interpret):
        out, *moments = pl.pallas_call(
            functools.partial(_kernel, epsilon=epsilon),
            grid=(batch, half // block),
            in_specs=[
                pl.BlockSpec((1, positions, 2, block), lambda b, c: (b, 0, 0, c)),
                pl.BlockSpec((3, 2, block), lambda b, c: (0, 0, c)),
            ],
            out_specs=[
                pl.BlockSpec((1, positions, block, 2), lambda b, c: (b, 0, c, 0)),
                *[statistics_spec] * 3,
            ],
            out_shape=[
                jax.ShapeDtypeStruct((batch, positions, half, 2), x.dtype),
                *[statistics] * 3,
            ],
            interpret=interpret,
        )(x.reshape(batch, positions, 2, half), vectors.reshape(3, 2, half))
        return (out.reshape(x.shape), *(m.reshape(batch, channels) for m in moments))

    return tuple(
        lax.platform_dependent(
            x,
            vectors,
            cpu=functools.partial(call, interpret=True),
            default=functools.partial(call, interpret=False),
            # For an export; JAX's own choice for GPUs could not lower the sums.
            **({"cuda": on_gpu} if triton() else {}),
        )
    )
