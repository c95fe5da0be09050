"""Affinities: every position is replaced by a weighted mean of all others, weighted by likeness.

All are channels-last, (..., H, W, C), pure, keep the dtype of the map, whatever the parameters' is,
and compute in float32 (float64 for float64). Maps that are not (..., H, W, C), or do not hold
floating-point numbers, are refused with a ValueError. Over explicit axes of a mesh the result is
sharded as the map is. Time grows with the square of the number of positions, memory does not: rows
of the affinity matrix are computed, used and dropped in blocks, and computed again for the gradient
(`attend`): a process that takes a 256 x 256 map of 64 channels forward and backward peaks at 0.5 to
0.6 GB, where the matrix alone would be 17 GB. The exceptions are the dot-product affinity and
channel attention, whose matrices are channels by channels. Being quadratic, affinities belong
where maps are small: at the bottom of a U-Net, or on tiles.

Non-local means, where this family comes from, is in `sa_flax.functional.non_local_means`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.affinity_params import (
    AFFINITIES,
    Affinity,
    DANetParams,
    NonLocalParams,
    SelfAttentionParams,
)
from sa_flax.functional.blockwise import attend
from sa_flax.functional.checks import check_map, check_shapes, check_size
from sa_flax.functional.layout import over_mesh, per_channel
from sa_flax.functional.statistics import params_for, widened

Maps = dict[str, Float[Array, "..."]]


def _positions(x: Float[Array, "*B H W C"]) -> Float[Array, "*B H*W C"]:
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def _subsample(x: Float[Array, "*B H W C"], factor: int) -> Float[Array, "*B H2 W2 C"]:
    """Maximum over factor x factor blocks; blocks at the edge may be smaller (ceil mode)."""
    if factor == 1:
        return x
    *lead, height, width, features = x.shape
    rows, columns = (height + factor - 1) // factor, (width + factor - 1) // factor
    pad = [(0, 0)] * x.ndim
    pad[-3], pad[-2] = (0, rows * factor - height), (0, columns * factor - width)
    padded = jnp.pad(x, pad, constant_values=-jnp.inf)
    return padded.reshape(*lead, rows, factor, columns, factor, features).max((-4, -2))


def non_local(
    x: Float[Array, "*B H W C"],
    params: NonLocalParams,
    *,
    affinity: Affinity = "embedded_gaussian",
    subsample: int = 1,
    block_size: int | None = None,
) -> Float[Array, "*B H W C"]:
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
    x = _check_non_local(x, params, affinity, subsample)

    def compute(x, params):
        queries, keys, values = _non_local_terms(x, params, affinity, subsample)
        count = keys.shape[-2]
        if affinity == "dot_product":
            mixed = queries @ (jnp.einsum("...md,...me->...de", keys, values) / count)
        elif affinity == "concatenation":
            mixed = attend(
                queries,
                keys,
                values / count,
                weigh=jax.nn.relu,
                normalise=False,
                block_size=block_size,
            )
        else:
            mixed = attend(queries, keys, values, block_size=block_size)
        params = params_for(x, params)
        out = mixed @ params.out_kernel + per_channel(params.out_bias, mixed.ndim)
        return (widened(x) + out.reshape(x.shape)).astype(x.dtype)

    return over_mesh(compute, x, params)


def _check_non_local(x: Any, params: NonLocalParams, affinity: str, subsample: int) -> jax.Array:
    if affinity not in AFFINITIES:
        raise ValueError(f"affinity must be one of {', '.join(AFFINITIES)}; got {affinity!r}.")
    check_size("non_local", "subsample", subsample)
    x = check_map("non_local", x)
    features, bottleneck = x.shape[-1], params.value_bias.size
    expected = NonLocalParams.parameters(
        features,
        bottleneck=max(bottleneck, 1),
        affinity=affinity,
    )
    sizes = {name: parameter.shape for name, parameter in expected.items()}
    if params.key_bias is None:
        sizes.pop("key_bias", None)
    elif affinity != "gaussian":
        sizes["key_bias"] = (bottleneck,)
    check_shapes(f"non_local ({affinity})", features, params, **sizes)
    return x


def _non_local_terms(
    x: Array, params: NonLocalParams, affinity: Affinity, subsample: int
) -> tuple[Array, Array, Array]:
    """Queries, keys and values of every position, such that scores are queries @ keys^T."""
    wide, params = widened(x), params_for(x, params)
    queries, keys = wide, wide
    if affinity != "gaussian":
        # All checked before; this is for the type checker.
        assert params.query_kernel is not None
        assert params.query_bias is not None
        assert params.key_kernel is not None
        queries = wide @ params.query_kernel + per_channel(params.query_bias, x.ndim)
        keys = wide @ params.key_kernel
        keys = keys if params.key_bias is None else keys + per_channel(params.key_bias, x.ndim)
    keys = _positions(_subsample(keys, subsample))
    values = wide @ params.value_kernel + per_channel(params.value_bias, x.ndim)
    values = _positions(_subsample(values, subsample))
    queries = _positions(queries)
    if affinity == "concatenation":
        assert params.pair_kernel is not None
        # pair_kernel . [q, k] is a sum of two numbers: a product of [a, 1] and [1, b].
        half = params.value_bias.size
        a = queries @ params.pair_kernel[:half, None]
        b = keys @ params.pair_kernel[half:, None]
        queries = jnp.concatenate([a, jnp.ones_like(a)], -1)
        keys = jnp.concatenate([jnp.ones_like(b), b], -1)
    return queries, keys, values


def _scores(queries: Array, keys: Array) -> Array:
    return jnp.einsum("...nd,...md->...nm", queries, keys)


def non_local_maps(
    x: Float[Array, "*B H W C"],
    params: NonLocalParams,
    *,
    affinity: Affinity = "embedded_gaussian",
    subsample: int = 1,
) -> Maps:
    """The whole affinity matrix of `non_local`, to be looked at: for small maps, see the cost.

    Takes the arguments of `non_local`, and raises what it raises.

    Returns:
      {"position": (..., H W, M)}: `f(x_i, x_j) / N_i`, the weight of each of M values at each
      position, row by row of the map.
    """
    x = _check_non_local(x, params, affinity, subsample)

    def compute(x, params):
        queries, keys, _ = _non_local_terms(x, params, affinity, subsample)
        scores = _scores(queries, keys)
        if affinity == "dot_product":
            return {"position": scores / keys.shape[-2]}
        if affinity == "concatenation":
            return {"position": jax.nn.relu(scores) / keys.shape[-2]}
        return {"position": jax.nn.softmax(scores)}

    return over_mesh(compute, x, params, like_x=False)


def self_attention(
    x: Float[Array, "*B H W C"], params: SelfAttentionParams, *, block_size: int | None = None
) -> Float[Array, "*B H W C"]:
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
    x = _check_self_attention(x, params)

    def compute(x, params):
        params = params_for(x, params)
        queries, keys, values = (_positions(widened(x) @ kernel) for kernel in params[:3])
        mixed = attend(queries, keys, values, block_size=block_size) @ params.out_kernel
        return (widened(x) + params.gamma * mixed.reshape(x.shape)).astype(x.dtype)

    return over_mesh(compute, x, params)


def _check_self_attention(x: Any, params: SelfAttentionParams) -> jax.Array:
    x = check_map("self_attention", x)
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
    return x


def self_attention_maps(x: Float[Array, "*B H W C"], params: SelfAttentionParams) -> Maps:
    """The whole affinity matrix of `self_attention`, to be looked at: for small maps.

    Raises what `self_attention` raises.

    Returns:
      {"position": (..., H W, H W)}: the weight of every position at each position, which sum to 1.
    """
    x = _check_self_attention(x, params)

    def compute(x, params):
        params = params_for(x, params)
        queries, keys = (_positions(widened(x) @ kernel) for kernel in params[:2])
        return {"position": jax.nn.softmax(_scores(queries, keys))}

    return over_mesh(compute, x, params, like_x=False)


def channel_attention(x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
    """Every channel becomes a mean of all channels: `x softmax_j(mean_HW(x_i x_j))^T`.

    No parameters, and a C x C matrix: 4 C operations for each number of the map. Fu et al. (see
    `danet`) take the sum over positions; we take the mean, since a sum of thousands leaves the
    softmax all on one channel, and would change with the size of the picture.

    Raises:
      ValueError: for a map that is not (..., H, W, C) or does not hold floating-point numbers.
    """
    x = check_map("channel_attention", x)
    return over_mesh(_channel_mixed, x)


def _channel_weights(x: Array) -> Array:
    wide = _positions(widened(x))
    return jax.nn.softmax(jnp.einsum("...nc,...nd->...cd", wide, wide) / wide.shape[-2])


def _channel_mixed(x: Array) -> Array:
    out = jnp.einsum("...cd,...nd->...nc", _channel_weights(x), _positions(widened(x)))
    return out.reshape(x.shape).astype(x.dtype)


def danet(
    x: Float[Array, "*B H W C"], params: DANetParams, *, block_size: int | None = None
) -> Float[Array, "*B H W C"]:
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
    x = _check_danet(x, params)

    def compute(x, params):
        params, wide = params_for(x, params), widened(x)
        queries, keys = _danet_terms(wide, params)
        values = wide @ params.value_kernel + per_channel(params.value_bias, x.ndim)
        mixed = attend(queries, keys, _positions(values), block_size=block_size)
        by_position = params.position_scale * mixed.reshape(x.shape)
        return (wide + (by_position + params.channel_scale * _channel_mixed(wide))).astype(x.dtype)

    return over_mesh(compute, x, params)


def _danet_terms(wide: Array, params: DANetParams) -> tuple[Array, Array]:
    queries = wide @ params.query_kernel + per_channel(params.query_bias, wide.ndim)
    return _positions(queries), _positions(wide @ params.key_kernel)


def _check_danet(x: Any, params: DANetParams) -> jax.Array:
    x = check_map("danet", x)
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
    return x


def danet_maps(x: Float[Array, "*B H W C"], params: DANetParams) -> Maps:
    """The affinity matrices of `danet`, to be looked at: for small maps.

    Raises what `danet` raises.

    Returns:
      {"position": (..., H W, H W), "channel": (..., C, C)}; rows sum to 1.
    """
    x = _check_danet(x, params)

    def compute(x, params):
        queries, keys = _danet_terms(widened(x), params_for(x, params))
        position = jax.nn.softmax(_scores(queries, keys))
        return {"position": position, "channel": _channel_weights(x)}

    return over_mesh(compute, x, params, like_x=False)
