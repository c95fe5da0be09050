"""Affinities: every position is replaced by a weighted mean of all others, weighted by likeness.

All are channels-last, (..., H, W, C), pure, keep the dtype of the map and compute in float32
(float64 for float64). Time grows with the square of the number of positions, memory does not: rows
of the affinity matrix are computed, used and dropped in blocks, and computed again for the gradient
(`attend`). The exceptions are the dot-product affinity and channel attention, whose matrices are
channels by channels. Being quadratic, affinities belong where maps are small: at the bottom of a
U-Net, or on tiles.

Non-local means, where this family comes from, is in `sa_flax.functional.non_local_means`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.pooling import statistics_dtype
from sa_flax.functional.shapes import check_shapes

Affinity = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
AFFINITIES: tuple[Affinity, ...] = (
    "embedded_gaussian",
    "gaussian",
    "dot_product",
    "concatenation",
)

# Entries of the affinity matrix that are held at a time: 4 MB of float32, which stay in a CPU's
# cache. Eight times as many took twice the time, half as many no less.
_BLOCK_ENTRIES = 2**20


def exponential(scores: Float[Array, "... n M"]) -> Float[Array, "... n M"]:
    """`exp(scores - max)` of each row: the weights of a softmax before they are normalised."""
    return jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))


def attend(
    queries: Float[Array, "... N D"],
    keys: Float[Array, "... M D"],
    values: Float[Array, "... M E"],
    *,
    weigh: Callable[[Float[Array, "... n M"]], Float[Array, "... n M"]] = exponential,
    normalise: bool = True,
    block_size: int | None = None,
) -> Float[Array, "... N E"]:
    """`softmax(queries @ keys^T) @ values`, exactly, without ever holding the N x M matrix.

    In general `f @ values / sum_j f` with f = `weigh(queries @ keys^T)`, or `f @ values`. Blocks of
    queries meet all keys, one block after the other; the backward pass computes each block again.
    So memory is block_size * M entries for each picture of the batch, forward and backward, and
    whole rows are there at once. Scores are not scaled.

    Args:
      queries, keys, values: (..., N, D), (..., M, D) and (..., M, E) with the same leading axes.
      weigh: what turns rows of scores into weights; an exponential by default.
      normalise: divide by the sum of each row's weights.
      block_size: queries at a time. None takes as many as make 2^20 scores, over the whole batch.

    Raises:
      ValueError: for shapes that do not fit together, or a block of less than one query.
    """
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
        row = max(keys.size // depth, 1)  # M scores for each picture of the batch
        block_size = max(_BLOCK_ENTRIES // row, 1)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1 query; got {block_size}.")
    # A value of 1 beside the others sums the weights, so that neither pass has a sum over rows of
    # its own. Positions last: the products of the backward pass then run several times as fast.
    if normalise:
        values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    keys, values = keys.swapaxes(-1, -2), values.swapaxes(-1, -2)

    def rows(block: Float[Array, "... n D"]) -> Float[Array, "... n E"]:
        weights = weigh(jnp.einsum("...nd,...dm->...nm", block, keys))
        mixed = jnp.einsum("...nm,...em->...ne", weights, values)
        return mixed[..., :-1] / mixed[..., -1:] if normalise else mixed

    if block_size >= length:
        return rows(queries)
    pad = [(0, 0)] * queries.ndim
    pad[-2] = (0, -length % block_size)
    blocks = jnp.pad(queries, pad).reshape(*lead, -1, block_size, depth)
    # Inside a loop nothing can be shared between the two computations of a block anyway.
    out = jax.lax.map(jax.checkpoint(rows, prevent_cse=False), jnp.moveaxis(blocks, -3, 0))
    out = jnp.moveaxis(out, 0, -3)
    return out.reshape(*lead, -1, out.shape[-1])[..., :length, :]


class NonLocalParams(NamedTuple):
    """1 x 1 convolutions of a non-local block, C -> B for queries, keys, values, B -> C back.

    The Gaussian affinity has no queries and keys. A bias of the keys would cancel in a softmax, so
    only the other two have one. `pair_kernel` belongs to the concatenation.
    """

    value_kernel: Float[Array, "C B"]
    value_bias: Float[Array, " B"]
    out_kernel: Float[Array, "B C"]
    out_bias: Float[Array, " C"]
    query_kernel: Float[Array, "C B"] | None = None
    query_bias: Float[Array, " B"] | None = None
    key_kernel: Float[Array, "C B"] | None = None
    key_bias: Float[Array, " B"] | None = None
    pair_kernel: Float[Array, " 2B"] | None = None


class SelfAttentionParams(NamedTuple):
    """SAGAN's four 1 x 1 convolutions without bias, and gamma, which starts at 0."""

    query_kernel: Float[Array, "C D"]
    key_kernel: Float[Array, "C D"]
    value_kernel: Float[Array, "C E"]
    out_kernel: Float[Array, "E C"]
    gamma: Float[Array, ""]


class DANetParams(NamedTuple):
    """1 x 1 convolutions of the position branch, and both branches' scales, which start at 0.

    A bias of the keys would cancel in the softmax; there is none.
    """

    query_kernel: Float[Array, "C D"]
    query_bias: Float[Array, " D"]
    key_kernel: Float[Array, "C D"]
    value_kernel: Float[Array, "C C"]
    value_bias: Float[Array, " C"]
    position_scale: Float[Array, ""]
    channel_scale: Float[Array, ""]


def _positions(x: Float[Array, "... H W C"]) -> Float[Array, "... HW C"]:
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def _subsample(x: Float[Array, "... H W C"], factor: int) -> Float[Array, "... H2 W2 C"]:
    """Maximum over factor x factor blocks; blocks at the edge may be smaller (ceil mode)."""
    if factor == 1:
        return x
    *lead, height, width, features = x.shape
    pad = [(0, 0)] * x.ndim
    pad[-3], pad[-2] = (0, -height % factor), (0, -width % factor)
    padded = jnp.pad(x, pad, constant_values=-jnp.inf)
    rows, columns = padded.shape[-3] // factor, padded.shape[-2] // factor
    return padded.reshape(*lead, rows, factor, columns, factor, features).max((-4, -2))


def non_local(
    x: Float[Array, "... H W C"],
    params: NonLocalParams,
    *,
    affinity: Affinity = "embedded_gaussian",
    subsample: int = 1,
    block_size: int | None = None,
) -> Float[Array, "... H W C"]:
    """Non-local block: `x + out(sum_j f(x_i, x_j) value(x_j) / N_i)` at every position i.

    With q = query(x_i), k = key(x_j), and M positions j:

        "embedded_gaussian"  f = exp(q . k)                      N_i = sum_j f
        "gaussian"           f = exp(x_i . x_j)                  N_i = sum_j f
        "dot_product"        f = q . k                           N_i = M
        "concatenation"      f = relu(pair_kernel . [q, k])      N_i = M

    Costs 2 H W M (2 B) operations, for the exponential ones as many exponentials as H W M, and
    4 C B + 3 B + C parameters or so. The dot product is linear in the positions, being computed as
    `q (k^T v) / M`: the one to take on large maps. `subsample=2` quarters M. Pays where pictures
    repeat themselves, and where the rest of the network sees only its surroundings.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `NonLocalParams`; with out_kernel and out_bias 0, as at the start, it is x.
      affinity: which f.
      subsample: keys and values are maxima over blocks of so many positions squared.
      block_size: queries at a time, see `attend`.

    Raises:
      ValueError: for an unknown affinity, or parameters that do not fit it or C.

    Wang et al., "Non-local Neural Networks", CVPR 2018, https://arxiv.org/abs/1711.07971.
    """
    if affinity not in AFFINITIES:
        raise ValueError(f"affinity must be one of {', '.join(AFFINITIES)}; got {affinity!r}.")
    if subsample < 1:
        raise ValueError(f"subsample must be a factor of at least 1; got {subsample}.")
    features, bottleneck = x.shape[-1], params.value_bias.size
    sizes: dict[str, tuple[int, ...]] = {
        "value_kernel": (features, bottleneck),
        "value_bias": (bottleneck,),
        "out_kernel": (bottleneck, features),
        "out_bias": (features,),
    }
    if affinity != "gaussian":
        sizes |= {"query_kernel": (features, bottleneck), "query_bias": (bottleneck,)}
        sizes |= {"key_kernel": (features, bottleneck)}
    if params.key_bias is not None:
        sizes |= {"key_bias": (bottleneck,)}
    if affinity == "concatenation":
        sizes |= {"pair_kernel": (2 * bottleneck,)}
    check_shapes(f"non_local ({affinity})", features, params, **sizes)

    wide = x.astype(statistics_dtype(x.dtype))
    queries, keys = wide, wide
    if affinity != "gaussian":
        assert params.query_kernel is not None  # checked above; this is for the type checker
        assert params.query_bias is not None
        assert params.key_kernel is not None
        queries = wide @ params.query_kernel + params.query_bias
        keys = wide @ params.key_kernel
        keys = keys if params.key_bias is None else keys + params.key_bias
    keys = _positions(_subsample(keys, subsample))
    values = wide @ params.value_kernel + params.value_bias
    values = _positions(_subsample(values, subsample))
    queries, count = _positions(queries), keys.shape[-2]
    if affinity == "dot_product":
        context = jnp.einsum("...md,...me->...de", keys, values) / count
        mixed = queries @ context
    elif affinity == "concatenation":
        assert params.pair_kernel is not None
        # pair_kernel . [q, k] is a sum of two numbers: a product of [a, 1] and [1, b].
        a = queries @ params.pair_kernel[:bottleneck, None]
        b = keys @ params.pair_kernel[bottleneck:, None]
        pairs = (
            jnp.concatenate([a, jnp.ones_like(a)], -1),
            jnp.concatenate([jnp.ones_like(b), b], -1),
        )
        mixed = attend(
            *pairs, values / count, weigh=jax.nn.relu, normalise=False, block_size=block_size
        )
    else:
        mixed = attend(queries, keys, values, block_size=block_size)
    out = mixed @ params.out_kernel + params.out_bias
    return (wide + out.reshape(x.shape)).astype(x.dtype)


def self_attention(
    x: Float[Array, "... H W C"], params: SelfAttentionParams, *, block_size: int | None = None
) -> Float[Array, "... H W C"]:
    """SAGAN's self-attention: `x + gamma * out(softmax_j(query(x_i) . key(x_j)) value(x_j))`.

    The embedded Gaussian of `non_local` with narrower queries and keys, no biases, scores that are
    not scaled, and a gamma that starts at 0: the network begins local and learns to look further.
    Costs 2 H W H W (D + E) operations and as many exponentials as H W H W, and C (2 D + 2 E) + 1
    parameters. Pays as `non_local` does, at about half its cost with the usual D = C / 8, E = C /
    2.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `SelfAttentionParams`.
      block_size: queries at a time, see `attend`.

    Raises:
      ValueError: where the parameters are not for C channels.

    Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019,
    https://arxiv.org/abs/1805.08318. The authors normalise the kernels spectrally and halve the
    resolution of keys and values; here neither is done.
    """
    features, depth, width = x.shape[-1], params.query_kernel.shape[-1], params.out_kernel.shape[0]
    check_shapes(
        "self_attention",
        features,
        params,
        query_kernel=(features, depth),
        key_kernel=(features, depth),
        value_kernel=(features, width),
        out_kernel=(width, features),
        gamma=(),
    )
    wide = x.astype(statistics_dtype(x.dtype))
    kernels = (params.query_kernel, params.key_kernel, params.value_kernel)
    queries, keys, values = (_positions(wide @ kernel) for kernel in kernels)
    mixed = attend(queries, keys, values, block_size=block_size) @ params.out_kernel
    return (wide + params.gamma * mixed.reshape(x.shape)).astype(x.dtype)


def channel_attention(x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
    """Every channel becomes a mean of all channels: `x softmax_j(mean_HW(x_i x_j))^T`.

    No parameters, and a C x C matrix: 4 C operations for each number of the map. Fu et al. (see
    `danet`) take the sum over positions; we take the mean, since a sum of thousands leaves the
    softmax all on one channel, and would change with the size of the picture.
    """
    wide = _positions(x.astype(statistics_dtype(x.dtype)))
    affinity = jnp.einsum("...nc,...nd->...cd", wide, wide) / wide.shape[-2]
    out = jnp.einsum("...cd,...nd->...nc", jax.nn.softmax(affinity), wide)
    return out.reshape(x.shape).astype(x.dtype)


def danet(
    x: Float[Array, "... H W C"], params: DANetParams, *, block_size: int | None = None
) -> Float[Array, "... H W C"]:
    """Dual attention network: position and channel attention, summed.

        out = x + position_scale * attend(query(x), key(x), value(x))
                + channel_scale * channel_attention(x)

    Costs 2 H W H W (D + C) operations and as many exponentials as H W H W: the dearest kind here.
    C^2 + 2 C D + C + D + 2 parameters. Pays where both what and where matter and maps are small;
    "dual" asks the same two questions by gates, in linear time.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `DANetParams`; with both scales 0, as at the start, it is x.
      block_size: queries at a time, see `attend`.

    Raises:
      ValueError: where the parameters are not for C channels.

    Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019,
    https://arxiv.org/abs/1809.02983. There each branch has the residual x of its own, and the sum
    2 x: here it is counted once, so that a fresh layer is the identity.
    """
    features, depth = x.shape[-1], params.query_kernel.shape[-1]
    check_shapes(
        "danet",
        features,
        params,
        query_kernel=(features, depth),
        query_bias=(depth,),
        key_kernel=(features, depth),
        value_kernel=(features, features),
        value_bias=(features,),
        position_scale=(),
        channel_scale=(),
    )
    wide = x.astype(statistics_dtype(x.dtype))
    queries = _positions(wide @ params.query_kernel + params.query_bias)
    keys = _positions(wide @ params.key_kernel)
    values = _positions(wide @ params.value_kernel + params.value_bias)
    by_position = attend(queries, keys, values, block_size=block_size).reshape(x.shape)
    scaled = params.position_scale * by_position + params.channel_scale * channel_attention(wide)
    return (wide + scaled).astype(x.dtype)
