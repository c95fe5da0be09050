"""Shuffle attention in as few passes over the map as it can be done in: two reads and one write
forward, four reads and one write backward, keeping only the input and three numbers per channel.

With u = x - pivot (one value per channel, see `_moments`), both gates are one formula,

    out = channel_shuffle(x * sigmoid(a * u + b), 2)

with a and b per (picture, channel), a = 0 in the channel half of each group. The derivative is
written by hand; derivatives of it go through the textbook form.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from sa_flax.functional.pallas_shuffle_attention import pallas_forward
from sa_flax.functional.pooling import statistics_dtype

Vectors = tuple[Array, ...]  # the six parameters, in the order of ShuffleAttentionParams


class _Statistics(NamedTuple):
    """What the backward pass keeps besides x: per picture and channel, (B, C)."""

    pivot: Array
    offset: Array  # spatial mean less pivot
    variance: Array


# --- What XLA's CPU compiler needs to be told (each was measured; the results are the same) -------


def _pin(x: Array) -> Array:
    """Returns x, computed once and in the shape it has here (CPU).

    XLA's CPU compiler fuses small vectors into the loops over the map, computing them anew for
    every pixel, and fuses a reshape after a shuffle, which then reads one number at a time.
    It fuses nothing across a loop, and `optimization_barrier` is gone by then: so this is a loop
    of two turns that subtracts zero from one element in place.
    """
    start = (0,) * x.ndim

    def body(turn, pinned):
        element = lax.dynamic_slice(pinned, start, (1,) * x.ndim)
        zero = jnp.minimum(turn, 0).astype(x.dtype)
        return lax.dynamic_update_slice(pinned, element - zero, start)

    return lax.fori_loop(0, 2, body, x)


def _pinned(vectors: tuple[Array, ...], *, tuned: bool) -> tuple[Array, ...]:
    return tuple(_pin(jnp.stack(vectors))) if tuned else vectors


def _two_sums(term, maps: tuple[Array, ...], *, tuned: bool) -> tuple[Array, Array]:
    """Sums over rows and columns, (B, C), of the two maps that `term` makes of columns of `maps`.

    Tuned: the two are added up as the parts of one complex number, so that the maps are read and
    `term` is computed once, and in blocks of columns, which XLA turns into vector instructions.
    """

    def total(x):
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1).sum(1)

    width = maps[0].shape[2]
    if not tuned or not isinstance(width, int):  # a symbol, in an export for any size
        first, second = term(*maps)
        return total(first), total(second)
    blocks = min(range(min(width, 8), min(width, 3), -1), key=lambda n: width % n, default=width)
    columns = width // blocks
    edges = [columns * i for i in range(blocks + 1)]
    terms = [
        lax.complex(*term(*(m[:, :, start:stop] for m in maps)))
        for start, stop in itertools.pairwise(edges)
    ]
    while len(terms) > 1:  # in pairs: fewer roundings
        terms = [sum(terms[i + 1 : i + 2], terms[i]) for i in range(0, len(terms), 2)]
    partial = _pin(terms[0])
    sums = [total(partial.real), total(partial.imag)]
    if edges[-1] < width:
        rest = term(*(m[:, :, edges[-1] :] for m in maps))
        sums = [main + total(part) for main, part in zip(sums, rest, strict=True)]
    return sums[0], sums[1]


def _halves(x: Array) -> Array:
    """(..., C) -> (..., C/2, 2): the shuffle, short of its last reshape."""
    return x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2).swapaxes(-1, -2)


def _unshuffled(g: Array, *, tuned: bool) -> Array:
    """(..., C) -> (..., 2, C/2): undoes the shuffle of a map.

    Tuned: loads both of two neighbours and masks one away, which XLA does by whole vectors; every
    second number by itself it would gather one by one.
    """
    pairs = g.reshape(*g.shape[:-1], g.shape[-1] // 2, 2)
    if not tuned:
        return pairs.swapaxes(-1, -2)
    bits = jnp.dtype(f"uint{8 * g.dtype.itemsize}")
    even, odd = (lax.bitcast_convert_type(pairs[..., None, :, side], bits) for side in (0, 1))
    mask = _pin(jnp.array([jnp.iinfo(bits).max, 0], bits))[:, None]
    return lax.bitcast_convert_type((even & mask) | (odd & ~mask), g.dtype)


# --- The mathematics --------------------------------------------------------------------------


def _per_channel(first: Array, second: Array, groups: int) -> Array:
    """(C,) from the vectors of the first (channel) and the second (spatial) half of a group."""
    return jnp.tile(jnp.concatenate([first, second]), groups)


def _moments(x: Array, *, tuned: bool) -> _Statistics:
    """Mean and variance over rows and columns of x, (B, H, W, C), in one pass about a pivot.

    The pivot is the mean of the first row. The square of its distance from the mean is at most H
    times the variance, so that at most a factor H of the precision is lost, whatever is in x; with
    one pixel for a pivot it would be H W, with none there is no bound.
    """
    dtype = statistics_dtype(x.dtype)
    row = x[:, 0].astype(dtype)
    start = row[:, :1]
    (pivot,) = _pinned((start[:, 0] + jnp.mean(row - start, axis=1),), tuned=tuned)

    def term(columns):
        u = columns.astype(dtype) - pivot[:, None, None]
        return u, u * u

    first, second = _two_sums(term, (x,), tuned=tuned)
    count = x.shape[1] * x.shape[2]
    offset = first / count
    return _Statistics(pivot, offset, jnp.maximum(second / count - offset * offset, 0))


def _channel_vectors(params: Vectors, groups: int, dtype) -> tuple[Array, Array, Array]:
    """Inside each channel's sigmoid: scale of the normalised map, constant, scale of the mean."""
    cweight, cbias, sweight, sbias, scale, bias = (v.astype(dtype) for v in params)
    zero = jnp.zeros_like(scale)
    return (
        _per_channel(zero, sweight * scale, groups),
        _per_channel(cbias, sbias + sweight * bias, groups),
        _per_channel(cweight, zero, groups),
    )


def _gate(
    statistics: _Statistics, params: Vectors, groups: int, epsilon: float
) -> tuple[Array, Array, Array]:
    """a and b of `sigmoid(a * (x - pivot) + b)`, and 1 / sqrt(variance + epsilon): (B, C) each."""
    pivot, offset, variance = statistics
    scale, constant, by_mean = _channel_vectors(params, groups, pivot.dtype)
    deviation = lax.rsqrt(variance + epsilon)
    a = scale * deviation
    return a, constant + by_mean * (pivot + offset) - a * offset, deviation


def _forward(x, *params, groups, epsilon, tuned):
    """(out, statistics) of x, (B, H, W, C)."""
    statistics = _moments(x, tuned=tuned)
    a, b, _ = _gate(statistics, params, groups, epsilon)
    vectors = (_halves(v) for v in (a, b, statistics.pivot))
    a, b, pivot = (v[:, None, None] for v in _pinned(tuple(vectors), tuned=tuned))
    pairs = _halves(x).astype(pivot.dtype)
    out = (pairs * jax.nn.sigmoid(a * (pairs - pivot) + b)).astype(x.dtype)
    return ((_pin(out) if tuned else out).reshape(x.shape), *statistics)


def _backward(x, pivot, offset, variance, *rest, groups, epsilon, tuned):
    """Cotangents of x and the six vectors, from x, its statistics, the vectors and out's one."""
    *params, g = rest
    statistics = _Statistics(pivot, offset, variance)
    a, b, deviation = _gate(statistics, tuple(params), groups, epsilon)
    dtype = pivot.dtype
    channels = x.shape[-1]
    count = x.shape[1] * x.shape[2]

    # First pass, over channels in the shuffled order: sums of dz = d out / d (a u + b) and dz u.
    vectors = tuple(_halves(v) for v in (a, b, pivot))
    sa, sb, sp = (v[:, None, None] for v in _pinned(vectors, tuned=tuned))

    def term(x, g):
        x, g = _halves(x).astype(dtype), g.reshape(*g.shape[:-1], channels // 2, 2).astype(dtype)
        u = x - sp
        gate = jax.nn.sigmoid(sa * u + sb)
        dz = g * x * gate * (1 - gate)
        return dz, dz * u

    sums = _two_sums(term, (x, g), tuned=tuned)
    sum_dz, sum_dz_u = (
        s.reshape(-1, channels // 2, 2).swapaxes(1, 2).reshape(-1, channels) for s in sums
    )
    sum_dz_norm = deviation * (sum_dz_u - offset * sum_dz)

    # What reaches x through the statistics: c0 + c1 u.
    cweight, _, sweight, _, scale, bias = (v.astype(dtype) for v in params)
    zero = jnp.zeros_like(scale)
    c1 = -a * deviation * sum_dz_norm / count
    through_mean = _per_channel(cweight, zero, groups) * sum_dz
    c0 = (through_mean - a * sum_dz) / count - c1 * offset

    # Second pass, over channels in their own order.
    coefficients = _pinned((a, b, pivot, c0, c1), tuned=tuned)
    a, b, pivot, c0, c1 = (v.reshape(v.shape[0], 1, 1, 2, channels // 2) for v in coefficients)
    y = x.reshape(*x.shape[:-1], 2, channels // 2).astype(dtype)
    gy = _unshuffled(g, tuned=tuned).astype(dtype)
    u = y - pivot
    gate = jax.nn.sigmoid(a * u + b)
    dx = (gy * gate * (1 + a * y * (1 - gate)) + (c0 + c1 * u)).astype(x.dtype)
    dx = (_pin(dx) if tuned else dx).reshape(x.shape)

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


def _on_platform(function, *args, **static):
    """`function`, tuned where it runs on a CPU."""
    return lax.platform_dependent(
        *args,
        cpu=functools.partial(function, **static, tuned=True),
        default=functools.partial(function, **static, tuned=False),
    )


# --- Differentiation --------------------------------------------------------------------------
#
# The tangent of the output is linear in the tangents of x and the parameters; its transpose is the
# backward pass. jax.custom_vjp would give only the latter and refuse forward mode, and the
# transpose of a custom_jvp is derived, not chosen. So the two are primitives, each the other's
# transpose. Their own derivatives, for grad of grad, are those of the textbook form.


def _textbook(x, *params, groups, epsilon, shuffle=True):
    from sa_flax.functional.shuffle_attention import (  # it imports this module
        ShuffleAttentionParams,
        textbook_shuffle_attention,
    )

    return textbook_shuffle_attention(
        x, ShuffleAttentionParams(*params), groups=groups, epsilon=epsilon, shuffle=shuffle
    )


def _tangent(*args, **static):
    """The output's tangent, from x, statistics, parameters and the tangents of x and parameters."""
    primals, tangents = _without_statistics(args[:10]), args[10:]
    return (jax.jvp(functools.partial(_textbook, **static), primals, tangents)[1],)


def _textbook_backward(*args, **static):
    primals, g = _without_statistics(args[:10]), args[10]
    return jax.vjp(functools.partial(_textbook, **static), *primals)[1](g)


def _without_statistics(known: tuple) -> tuple:
    return (known[0], *known[4:])


def _linear_primitive(name: str, compute, textbook, *, like: tuple[int, ...]) -> Primitive:
    """A primitive that is linear in all its arguments but the first ten: x, statistics, parameters.

    Its results have the shapes, dtypes and shardings of the arguments with the numbers `like`.
    `textbook` computes the same and can be differentiated. Statistics are functions of x, which it
    computes from x again: their tangents are included in x's.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def batched(*args, batches, **static):
        function = functools.partial(compute, **static)
        for _ in range(batches):
            function = jax.vmap(function)
        return function(*args)

    compiled = jax.jit(batched, static_argnames=("batches", "groups", "epsilon"))
    primitive.def_impl(compiled)

    primitive.def_abstract_eval(
        lambda *avals, **_: [avals[index].strip_weak_type() for index in like]
    )
    mlir.register_lowering(primitive, mlir.lower_fun(batched, multiple_results=True))

    def batch(args, dims, *, batches, **static):
        (size,) = {a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None}
        moved = (
            jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            for a, d in zip(args, dims, strict=True)
        )
        outs = primitive.bind(*moved, batches=batches + 1, **static)
        return outs, [0] * len(outs)

    batching.primitive_batchers[primitive] = batch

    def jvp(primals, tangents, *, batches, **static):
        outs = primitive.bind(*primals, batches=batches, **static)
        tangents = [
            jnp.zeros_like(p) if type(t) is ad.Zero else t
            for p, t in zip(primals, tangents, strict=True)
        ]
        by_linear = primitive.bind(*primals[:10], *tangents[10:], batches=batches, **static)
        function = functools.partial(textbook, **static)
        for _ in range(batches):
            function = jax.vmap(function)
        by_known = jax.jvp(
            lambda *known: function(*known, *primals[10:]), primals[:10], tuple(tangents[:10])
        )[1]
        return outs, [a + b for a, b in zip(by_linear, by_known, strict=True)]

    ad.primitive_jvps[primitive] = jvp
    return primitive


tangent_p = _linear_primitive("shuffle_attention_tangent", _tangent, _tangent, like=(0,))
cotangent_p = _linear_primitive(
    "shuffle_attention_cotangent",
    functools.partial(_on_platform, _backward),
    _textbook_backward,
    like=(0, *range(4, 10)),
)


def _transpose_tangent(cotangents, *args, **params):
    known = args[:10]
    (g,) = cotangents
    if type(g) is ad.Zero:
        return [None] * 10 + [ad.Zero(linear.aval) for linear in args[10:]]
    return [None] * 10 + list(cotangent_p.bind(*known, g, **params))


def _transpose_cotangent(cotangents, *args, **params):
    known = args[:10]
    dense = [ad.instantiate_zeros(c) for c in cotangents]
    return [None] * 10 + list(tangent_p.bind(*known, *dense, **params))


ad.primitive_transposes[tangent_p] = _transpose_tangent
ad.primitive_transposes[cotangent_p] = _transpose_cotangent


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fused(static: tuple[tuple[str, Any], ...], x: Array, *params: Array) -> Array:
    return _compiled_forward(x, *params, **dict(static))[0]


@_fused.defjvp
def _fused_jvp(static, primals, tangents):
    x, *params = primals
    options = dict(static)
    out, *statistics = _compiled_forward(x, *params, **options)
    del options["kernel"]
    (tangent,) = tangent_p.bind(x, *statistics, *params, *tangents, batches=0, **options)
    return out, tangent


@functools.partial(jax.jit, static_argnames=("groups", "epsilon", "kernel"))
def _compiled_forward(x, *params, groups, epsilon, kernel):
    if kernel:
        vectors = jnp.stack(_channel_vectors(params, groups, statistics_dtype(x.dtype)))
        return pallas_forward(x, vectors, epsilon=epsilon)
    return _on_platform(_forward, x, *params, groups=groups, epsilon=epsilon)


def _varying(x: Array) -> frozenset[str]:
    """The axes of a shard_map's mesh along which x differs; JAX keeps renaming where it says so."""
    aval: Any = jax.typeof(x)
    for name in ("manual_axis_type", "mat"):
        if hasattr(aval, name):
            return getattr(aval, name).varying
    return aval.vma


def fused_shuffle_attention(
    x: Float[Array, "... H W C"],
    params: Any,
    *,
    groups: int,
    epsilon: float,
    kernel: bool = False,
) -> Float[Array, "... H W C"]:
    """What `shuffle_attention(..., implementation="fused")` runs; it has checked the arguments.

    Statistics of bfloat16 and float16 maps are in float32, of float64 maps in float64. All of
    JAX's transformations work; reverse mode keeps x and three (B, C) statistics. With `kernel`
    (implementation="pallas") the forward pass is a Pallas kernel.
    """
    # Inside shard_map: everything varies between devices as x does, so that the gradient of what
    # does not is summed over them, here and not inside the primitives.
    axes = frozenset[str]().union(*(_varying(a) for a in (x, *params)))
    if axes:
        x, *params = (lax.pcast(a, tuple(axes - _varying(a)), to="varying") for a in (x, *params))
    flat = x.reshape(-1, *x.shape[-3:])
    static = (("groups", groups), ("epsilon", epsilon), ("kernel", kernel))
    return _fused(static, flat, *params).reshape(x.shape)
