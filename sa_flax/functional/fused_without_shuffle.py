"""Shuffle attention's gates without its channel shuffle, in one pass to reduce and one to apply.

For inference, where the shuffle is folded into the convolution that follows (see
`sa_flax.functional.fold_channel_shuffle`). Derivatives are those of the textbook form.
"""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from sa_flax.functional.fused_shuffle_attention import (
    _gate,
    _moments,
    _on_platform,
    _pinned,
    _textbook,
)


def _forward(x, *params, groups, epsilon, tuned):
    statistics = _moments(x, tuned=tuned)
    a, b, _ = _gate(statistics, params, groups, epsilon)
    vectors = _pinned((a, b, statistics.pivot), tuned=tuned)
    a, b, pivot = (v[:, None, None] for v in vectors)
    wide = x.astype(pivot.dtype)
    return (wide * jax.nn.sigmoid(a * (wide - pivot) + b)).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gated(static: tuple[tuple[str, Any], ...], x: Array, *params: Array) -> Array:
    return _compiled(x, *params, **dict(static))


@_gated.defjvp
def _gated_jvp(static, primals, tangents):
    textbook = functools.partial(_textbook, **dict(static), shuffle=False)
    return jax.jvp(textbook, primals, tangents)


@functools.partial(jax.jit, static_argnames=("groups", "epsilon"))
def _compiled(x, *params, groups, epsilon):
    return _on_platform(_forward, x, *params, groups=groups, epsilon=epsilon)


def fused_without_shuffle(
    x: Float[Array, "... H W C"], params: Any, *, groups: int, epsilon: float
) -> Float[Array, "... H W C"]:
    """What `shuffle_attention(..., shuffle=False)` runs; it has checked the arguments."""
    flat = x.reshape(-1, *x.shape[-3:])
    static = (("groups", groups), ("epsilon", epsilon))
    return _gated(static, flat, *params).reshape(x.shape)
