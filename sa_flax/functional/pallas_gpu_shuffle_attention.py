"""Shuffle attention's forward pass as a Pallas kernel for NVIDIA GPUs, by Pallas' Triton back end.

Each program takes some channels of one picture through three loops over its positions: mean,
variance, gate. Only the first reads slow memory where the cache holds those channels. Checked in
interpret mode and lowered for CUDA; it has not been run on a GPU, and no benchmark shows that it
wins. JAX deprecates this back end from 0.11 on. In the one that replaces it (Mosaic GPU, of 0.10.2)
sums over an axis lower only in the tensor cores' layout, and from that layout every second channel
can't be stored, as the channel shuffle needs.
"""

import functools
import warnings
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

# Numbers of channels and of positions in a block, powers of two as Triton's blocks must be.
_CHANNELS = 16
_POSITIONS = 256


@functools.cache
def triton() -> ModuleType | None:
    """Pallas' Triton back end, None where this JAX has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from jax.experimental.pallas import triton
        except ImportError:
            return None
    return triton


def _kernel(x_ref, vectors_ref, out_ref, mean_ref, offset_ref, variance_ref, *, epsilon, back_end):
    """Whole arrays: x and out (B, HW, C), vectors (3, C), statistics (B, C)."""
    _, positions, channels = x_ref.shape
    dtype = vectors_ref.dtype
    picture = pl.program_id(0)
    # Channels in the shuffled order, and where each comes from. Beyond the last channel and the
    # last position come those again: what is stored for them is stored twice, the same.
    shuffled = pl.program_id(1) * _CHANNELS + jnp.arange(_CHANNELS)
    shuffled = jnp.minimum(shuffled, channels - 1)
    source = shuffled % 2 * (channels // 2) + shuffled // 2

    def rows(block):
        """Positions of a block, and which of them are there for the first time."""
        position = block * _POSITIONS + jnp.arange(_POSITIONS)
        return jnp.minimum(position, positions - 1)[:, None], (position < positions)[:, None]

    def load(position):
        block = back_end.load(x_ref.at[picture, position, source[None, :]])
        return block.astype(dtype)

    def per_channel(ref, *index):
        return back_end.load(ref.at[(*index, source)])

    def sums(term):
        """Over all positions, of each of the blocks that term makes of a block of x."""

        def body(block, totals):
            position, there = rows(block)
            terms = term(load(position))
            return tuple(
                total + jnp.sum(jnp.where(there, t, 0), axis=0)
                for total, t in zip(totals, terms, strict=True)
            )

        zero = jnp.zeros((_CHANNELS,), dtype)
        return lax.fori_loop(0, pl.cdiv(positions, _POSITIONS), body, (zero, zero))

    # About one value of the channel, then about the mean.
    first = per_channel(x_ref, picture, 0).astype(dtype)
    mean = first + sums(lambda x: (x - first, x - first))[0] / positions
    total, squares = sums(lambda x: (x - mean, jnp.square(x - mean)))
    offset = total / positions  # what rounding left in it
    variance = jnp.maximum(squares / positions - offset * offset, 0)
    scale, shift, by_mean = (per_channel(vectors_ref, row) for row in range(3))
    a = scale * lax.rsqrt(variance + epsilon)
    b = shift + by_mean * (mean + offset) - a * offset

    def gate(block, carry):
        position, _ = rows(block)
        x = load(position)
        gated = x * jax.nn.sigmoid(a * (x - mean) + b)
        where = out_ref.at[picture, position, shuffled[None, :]]
        back_end.store(where, gated.astype(out_ref.dtype))
        return carry

    lax.fori_loop(0, pl.cdiv(positions, _POSITIONS), gate, 0)
    for ref, value in ((mean_ref, mean), (offset_ref, offset), (variance_ref, variance)):
        back_end.store(ref.at[picture, source], value)


def gpu_forward(
    x: Array, vectors: Array, *, epsilon: float, interpret: bool = False
) -> tuple[Array, ...]:
    """What `pallas_forward` computes, for GPUs: (out, pivot, offset, variance) of (B, H, W, C).

    Raises:
      NotImplementedError: where this JAX has no Triton back end.
    """
    back_end = triton()
    if back_end is None:
        raise NotImplementedError(
            f"implementation='pallas' on GPUs needs Pallas' Triton back end, which jax "
            f"{jax.__version__} does not have. Use implementation='fused'."
        )
    batch, height, width, channels = x.shape
    statistics = jax.ShapeDtypeStruct((batch, channels), vectors.dtype)
    out, *moments = pl.pallas_call(
        functools.partial(_kernel, epsilon=epsilon, back_end=back_end),
        grid=(batch, pl.cdiv(channels, _CHANNELS)),
        out_shape=[
            jax.ShapeDtypeStruct((batch, height * width, channels), x.dtype),
            *[statistics] * 3,
        ],
        compiler_params=back_end.CompilerParams(num_warps=4),
        interpret=interpret,
    )(x.reshape(batch, height * width, channels), vectors)
    return (out.reshape(x.shape), *moments)
