"""Softmax attention, and others of its form, a block of queries at a time."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_floating, check_size
from sa_flax.functional.statistics import statistics_dtype

# Entries of the affinity matrix that are held at a time: 4 MB of float32, which stay in a CPU's
# cache. Eight times as many took twice the time, half as many no less.
_BLOCK_ENTRIES = 2**20
# Queries at a time in an export for any size, where nothing is known of the number of keys.
_BLOCK_OF_UNKNOWN = 64


def exponential(scores: Float[Array, "*B n M"]) -> Float[Array, "*B n M"]:
    """`exp(scores - max)` of each row: the weights of a softmax before they are normalised."""
    return jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))


def attend(
    queries: Float[Array, "*B N D"],
    keys: Float[Array, "*B M D"],
    values: Float[Array, "*B M E"],
    *,
    weigh: Callable[[Array], Array] = exponential,
    normalise: bool = True,
    block_size: int | None = None,
) -> Float[Array, "*B N E"]:
    """`softmax(queries @ keys^T) @ values`, exactly, without ever holding the N x M matrix.

    In general `f @ values / sum_j f` with f = `weigh(queries @ keys^T)`, or `f @ values`. Blocks of
    queries meet all keys, one block after the other; the backward pass computes each block again.
    So memory is block_size * M entries for each picture of the batch, forward and backward, and
    whole rows are there at once. Scores are not scaled.

    Args:
      queries, keys, values: (..., N, D), (..., M, D) and (..., M, E) with the same leading axes.
      weigh: what turns rows of scores into weights; an exponential by default.
      normalise: divide by the sum of each row's weights.
      block_size: queries at a time. None takes as many as make 2^20 scores, over the whole batch;
        64 in an export for any size.

    Raises:
      ValueError: for arrays that do not hold floating-point numbers, for shapes that do not fit
        together, or a block of less than one query.
    """
    for name, array in (("queries", queries), ("keys", keys), ("values", values)):
        check_floating("attend", array, name)
    if (
        queries.shape[:-2] != keys.shape[:-2]
        or queries.shape[-1] != keys.shape[-1]
        or keys.shape[:-1] != values.shape[:-1]
    ):
        raise ValueError(
            f"attend needs queries (..., N, D), keys (..., M, D) and values (..., M, E) with the "
            f"same leading axes; got {queries.shape}, {keys.shape} and {values.shape}."
        )
    *lead, length, depth = queries.shape
    if block_size is None:
        row = math.prod(keys.shape[:-1])  # M scores for each picture of the batch
        known = isinstance(row, int)
        block_size = max(_BLOCK_ENTRIES // max(row, 1), 1) if known else _BLOCK_OF_UNKNOWN
    check_size("attend", "block_size (queries at a time)", block_size)
    # A value of 1 beside the others sums the weights, so that neither pass has a sum over rows of
    # its own. Positions last: the products of the backward pass then run several times as fast.
    if normalise:
        values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    keys, values = keys.swapaxes(-1, -2), values.swapaxes(-1, -2)
    wide = statistics_dtype(values.dtype)

    def rows(block: Float[Array, "... n D"]) -> Float[Array, "... n E"]:
        weights = weigh(jnp.einsum("...nd,...dm->...nm", block, keys))
        # In 16 bits a sum over positions would lose what it has, or itself: more than 65,504 are
        # infinite in float16.
        mixed = jnp.einsum("...nm,...em->...ne", weights, values, preferred_element_type=wide)
        mixed = mixed[..., :-1] / mixed[..., -1:] if normalise else mixed
        return mixed.astype(weights.dtype)

    if isinstance(length, int) and block_size >= length:
        return rows(queries)
    count = (length + block_size - 1) // block_size
    # The last block is filled with the last query: zeros may weigh nothing, which can't be divided.
    rest = (*lead, count * block_size - length, depth)
    filled = jnp.concatenate([queries, jnp.broadcast_to(queries[..., -1:, :], rest)], axis=-2)
    blocks = filled.reshape(*lead, count, block_size, depth)
    # Inside a loop nothing can be shared between the two computations of a block anyway.
    out = jax.lax.map(jax.checkpoint(rows, prevent_cse=False), jnp.moveaxis(blocks, -3, 0))
    out = jnp.moveaxis(out, 0, -3)
    return out.reshape(*lead, count * block_size, out.shape[-1])[..., :length, :]
