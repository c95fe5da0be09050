"""Attention layers: parameters, and one call into `sa_flax.functional`.

Every layer maps (..., H, W, C) to the same shape and dtype, so any of them fits any slot.
"""

import difflib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import initializers
from jaxtyping import Array, Float

from sa_flax.functional.gating import SqueezeExciteParams, squeeze_excite
from sa_flax.functional.shuffle_attention import (
    Implementation,
    ShuffleAttentionParams,
    check_groups,
    fitting_groups,
    shuffle_attention,
)

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
        implementation: Implementation | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        check_groups(features, groups)
        k = features // (2 * groups)
        self.features, self.groups, self.epsilon = features, groups, epsilon
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
            implementation=self.implementation,
        )


class SqueezeExcite(nnx.Module):
    """Squeeze and excitation: see `sa_flax.functional.squeeze_excite`.

    Args:
      features: channels C of the map.
      reduction: the hidden layer has max(features // reduction, 1) units.
      kernel_init: initialiser of both dense layers; biases start at 0.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 16,
        kernel_init: initializers.Initializer = initializers.lecun_normal(),
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = max(features // reduction, 1)
        self.features = features
        self.reduce_kernel = nnx.Param(kernel_init(rngs.params(), (features, hidden), param_dtype))
        self.reduce_bias = nnx.Param(jnp.zeros((hidden,), param_dtype))
        self.expand_kernel = nnx.Param(kernel_init(rngs.params(), (hidden, features), param_dtype))
        self.expand_bias = nnx.Param(jnp.zeros((features,), param_dtype))

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = SqueezeExciteParams(
            *(getattr(self, name)[...] for name in SqueezeExciteParams._fields)
        )
        return squeeze_excite(x, params)


def _shuffle(features: int, *, groups: int | None = None, **options) -> ShuffleAttention:
    """ShuffleAttention with, unless given, the largest number of groups up to 8 that fits."""
    if groups is None:
        groups = max((g for g in fitting_groups(features) if g <= 8), default=8)
    return ShuffleAttention(features, groups=groups, **options)


_ATTENTIONS: dict[str, Callable[..., nnx.Module]] = {
    "shuffle": _shuffle,
    "squeeze_excite": SqueezeExcite,
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
        near = difflib.get_close_matches(kind, [*_ATTENTIONS, "none"], n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown attention {kind!r}.{hint} Known: none, {', '.join(list_attentions())}."
        )
    return _ATTENTIONS[kind](features, rngs=rngs, **options)


def _identity(x: jax.Array) -> jax.Array:
    return x
