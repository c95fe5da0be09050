"""The fused forward and backward pass as one differentiable function.

The tangent of the output is linear in the tangents of x and the parameters; its transpose is the
backward pass. jax.custom_vjp would give only the latter and refuse forward mode, and the
transpose of a custom_jvp is derived, not chosen. So the two are primitives, each the other's
transpose. Their own derivatives, for grad of grad, are those of the textbook form.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from sa_flax.functional._shuffle.cpu import on_platform
from sa_flax.functional._shuffle.parts import ShuffleAttentionParams, textbook
from sa_flax.functional._shuffle.passes import backward, forward


def _textbook(x, *params, **static):
    return textbook(x, ShuffleAttentionParams(*params), **static)


def _tangent(*args, **static):
    """The output's tangent, from x, statistics, parameters and the tangents of x and parameters."""
    primals, tangents = _without_statistics(args[:10]), args[10:]
    return (jax.jvp(functools.partial(_textbook, **static), primals, tangents)[1],)


def _textbook_backward(*args, **static):
    primals, g = _without_statistics(args[:10]), args[10]
    return jax.vjp(functools.partial(_textbook, **static), *primals)[1](g)


def _without_statistics(known: tuple) -> tuple:
    return (known[0], *known[4:])


def _linear_primitive(name: str, compute, by_textbook, *, like: tuple[int, ...]) -> Primitive:
    """A primitive that is linear in all its arguments but the first ten: x, statistics, parameters.

    Its results have the shapes, dtypes and shardings of the arguments with the numbers `like`.
    `by_textbook` computes the same and can be differentiated. Statistics are functions of x, which
    it computes from x again: their tangents are included in x's.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def batched(*args, batches, **static):
        function = functools.partial(compute, **static)
        for _ in range(batches):
            function = jax.vmap(function)
        return function(*args)

    compiled = jax.jit(batched, static_argnames=("batches", "groups", "epsilon", "shuffle"))
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
        function = functools.partial(by_textbook, **static)
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
    functools.partial(on_platform, backward),
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
    (tangent,) = tangent_p.bind(x, *statistics, *params, *tangents, batches=0, **options)
    return out, tangent


@functools.partial(jax.jit, static_argnames=("groups", "epsilon", "shuffle"))
def _compiled_forward(x, *params, **static):
    return on_platform(forward, x, *params, **static)


def _varying(x: Array) -> frozenset[str]:
    """The axes of a shard_map's mesh along which x differs; JAX keeps renaming where it says so."""
    aval: Any = jax.typeof(x)
    for name in ("manual_axis_type", "mat"):
        if hasattr(aval, name):
            return getattr(aval, name).varying
    return aval.vma


def fused(
    x: Float[Array, "*B H W C"],
    params: ShuffleAttentionParams,
    *,
    groups: int,
    epsilon: float,
    shuffle: bool = True,
) -> Float[Array, "*B H W C"]:
    """What `shuffle_attention(..., implementation="fused")` runs; it has checked the arguments.

    Statistics of bfloat16 and float16 maps are in float32, of float64 maps in float64. All of
    JAX's transformations work; reverse mode keeps x and three (B, C) statistics.
    """
    # Inside shard_map: everything varies between devices as x does, so that the gradient of what
    # does not is summed over them, here and not inside the primitives.
    vectors = list(params)
    axes = frozenset[str]().union(*(_varying(a) for a in (x, *vectors)))
    if axes:
        x, *vectors = (lax.pcast(a, tuple(axes - _varying(a)), to="varying") for a in (x, *vectors))
    flat = x.reshape(-1, *x.shape[-3:])
    static = (("groups", groups), ("epsilon", epsilon), ("shuffle", shuffle))
    return _fused(static, flat, *vectors).reshape(x.shape)
