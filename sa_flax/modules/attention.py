"""Attention layers by name: parameters, and one call into `sa_flax.functional`.

Every layer maps (..., H, W, C) to the same shape and dtype, so any of them fits any slot. Shuffle
attention is here, the other masks are in `sa_flax.modules.masks`, the affinities in
`sa_flax.modules.affinities`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.errors import InputError, nearest
from sa_flax.functional.pooling import Window, check_window
from sa_flax.functional.shuffle_attention import (
    Implementation,
    ShuffleAttentionParams,
    check_groups,
    fitting_groups,
    shuffle_attention,
)
from sa_flax.modules.affinities import DANet, NonLocal, SelfAttention
from sa_flax.modules.masks import CBAM, ECA, SGE, DualAttention, SqueezeExcite

Dtype = jax.typing.DTypeLike


class ShuffleAttention(nnx.Module):
    """Shuffle attention (SA-Net): see `sa_flax.functional.shuffle_attention`.

    Holds six vectors of length k = features / (2 groups), 3 features / groups numbers in all,
    started as in the paper's code: weights 0, biases 1, norm scale 1 and bias 0. A fresh layer
    therefore multiplies everything by sigmoid(1) = 0.731.

    Args:
      features: channels C of the map.
      groups: number of groups; 2 * groups must divide `features`.
      epsilon: added to the variance in the group norm.
      window: (height, width) that statistics are taken over; None for the whole map.
      implementation: which code computes it, see `sa_flax.functional.shuffle_attention`.
      param_dtype: dtype of the parameters.
      rngs: accepted as every layer does; nothing is drawn from it.

    Raises:
      ValueError: where 2 * groups does not divide features; the groups that fit are listed.

    Zhang and Yang, ICASSP 2021, https://arxiv.org/abs/2102.00240.
    """

    def __init__(
        self,
        features: int,
        *,
        groups: int = 8,
        epsilon: float = 1e-5,
        window: Window = None,
        implementation: Implementation | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        check_groups(features, groups)
        check_window(window)
        k = features // (2 * groups)
        self.features, self.groups, self.epsilon = features, groups, epsilon
        self.window = window
        self.implementation = implementation
        self.channel_weight = nnx.Param(jnp.zeros((k,), param_dtype))
        self.channel_bias = nnx.Param(jnp.ones((k,), param_dtype))
        self.spatial_weight = nnx.Param(jnp.zeros((k,), param_dtype))
        self.spatial_bias = nnx.Param(jnp.ones((k,), param_dtype))
        self.norm_scale = nnx.Param(jnp.ones((k,), param_dtype))
        self.norm_bias = nnx.Param(jnp.zeros((k,), param_dtype))

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = ShuffleAttentionParams(
            *(getattr(self, name)[...] for name in ShuffleAttentionParams._fields)
        )
        return shuffle_attention(
            x,
            params,
            groups=self.groups,
            epsilon=self.epsilon,
            window=self.window,
            implementation=self.implementation,
        )


def _shuffle(features: int, *, groups: int | None = None, **options) -> ShuffleAttention:
    """ShuffleAttention with, unless given, the largest number of groups up to 8 that fits."""
    if groups is None:
        groups = max((g for g in fitting_groups(features) if g <= 8), default=8)
    return ShuffleAttention(features, groups=groups, **options)


def _sge(features: int, *, groups: int | None = None, **options) -> SGE:
    """SGE with, unless given, the largest number of groups up to 8 that divides the features."""
    if groups is None:
        groups = max(g for g in range(1, 9) if features % g == 0)
    return SGE(features, groups=groups, **options)


# The papers' 16 leaves one or two hidden units at a denoiser's 24 or 32 features, and ReLUs so few
# are often all dead from the start.
_REDUCTION = 4

_ATTENTIONS: dict[str, Callable[..., nnx.Module]] = {
    # Masks: pool, sigmoid, multiply. Linear in the pixels.
    "shuffle": _shuffle,
    "squeeze_excite": functools.partial(SqueezeExcite, reduction=_REDUCTION),
    "eca": ECA,
    "cbam": functools.partial(CBAM, reduction=_REDUCTION),
    "sge": _sge,
    "dual": functools.partial(DualAttention, reduction=_REDUCTION),
    # Affinities: every position against every other. Quadratic in the pixels.
    "non_local": NonLocal,
    "self_attention": SelfAttention,
    "danet": DANet,
}


def list_attentions() -> list[str]:
    """The kinds that `make_attention` knows, in alphabetical order."""
    return sorted(_ATTENTIONS)


def make_attention(kind: str, features: int, *, rngs: nnx.Rngs, **options) -> Callable:
    """An attention layer by name: maps (..., H, W, features) to the same shape and dtype.

    Args:
      kind: one of `list_attentions()`, or "none" for a layer that returns its input.
      features: channels of the map. Sizes that are not given as options are chosen to fit it.
      rngs: the random streams that parameters are drawn from.
      **options: keyword arguments of the layer, e.g. `groups=8` for "shuffle".

    Raises:
      ValueError: for an unknown kind (the nearest name is suggested) or sizes that don't fit.
    """
    if kind == "none":
        return _identity
    if kind not in _ATTENTIONS:
        hint = nearest(kind, ["none", *_ATTENTIONS])
        raise InputError(
            f"unknown attention {kind!r}.{hint} Known: none, {', '.join(list_attentions())}."
        )
    return _ATTENTIONS[kind](features, rngs=rngs, **options)


def set_window(module: nnx.Module, window: Window) -> None:
    """Sets the window of every attention inside `module` that pools, in place.

    Args:
      module: a layer or a network; the window is the same at every level of it. To scale it with
        the resolution, and to leave the network as it is, see `AttentionUNet.with_window`.
      window: (height, width) around each pixel that statistics are taken over; None for the whole
        map. Attentions that pool nothing have no `window` and are left alone.

    Raises:
      ValueError: for anything else.
    """
    check_window(window)
    for _, layer in nnx.iter_modules(module):
        if hasattr(layer, "window"):
            layer.window = window


def _identity(x: jax.Array) -> jax.Array:
    return x
