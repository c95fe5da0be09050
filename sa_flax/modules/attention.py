"""Attention layers by name: the table of kinds.

Every layer maps (..., H, W, C) to the same shape, so any of them fits any slot.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from sa_flax.errors import InputError, nearest
from sa_flax.modules.affinities import DANet, NonLocal, SelfAttention
from sa_flax.modules.layer import Attention
from sa_flax.modules.masks import CBAM, ECA, SGE, DualAttention, SqueezeExcite
from sa_flax.modules.shuffle_attention import ShuffleAttention

# A name that `make_attention` knows, or what makes a layer: called with the features, and rngs and
# param_dtype by keyword, it returns something that maps (..., H, W, features) to the same shape.
Kind = str | Callable[..., Any]
Layer = Callable[[jax.Array], jax.Array]

_ATTENTIONS: dict[str, type[Attention]] = {
    # Masks: pool, sigmoid, multiply. Linear in the pixels.
    "shuffle": ShuffleAttention,
    "squeeze_excite": SqueezeExcite,
    "eca": ECA,
    "cbam": CBAM,
    "sge": SGE,
    "dual": DualAttention,
    # Affinities: every position against every other. Quadratic in the pixels.
    "non_local": NonLocal,
    "self_attention": SelfAttention,
    "danet": DANet,
}

# What others call them, in small letters only: for suggestions, not accepted.
_OTHER_NAMES = {
    "sa": "shuffle",
    "sanet": "shuffle",
    "shuffleattention": "shuffle",
    "se": "squeeze_excite",
    "senet": "squeeze_excite",
    "seblock": "squeeze_excite",
    "squeeze": "squeeze_excite",
    "squeezeandexcitation": "squeeze_excite",
    "squeezeexcitation": "squeeze_excite",
    "ecanet": "eca",
    "efficientchannelattention": "eca",
    "spatialgroupwiseenhance": "sge",
    "dau": "dual",
    "dualattention": "dual",
    "mirnet": "dual",
    "cycleisp": "dual",
    "nl": "non_local",
    "nonlocalblock": "non_local",
    "nonlocalneuralnetwork": "non_local",
    "sagan": "self_attention",
    "selfattn": "self_attention",
    "selfatt": "self_attention",
    "attention": "self_attention",
    "da": "danet",
    "dualattentionnetwork": "danet",
    "identity": "none",
    "no": "none",
    "off": "none",
    "": "none",
}


def list_attentions() -> list[str]:
    """The kinds that `make_attention` knows, in alphabetical order."""
    return sorted(_ATTENTIONS)


def make_attention(kind: Kind, features: int, *, rngs: nnx.Rngs, **options: Any) -> Layer:
    """An attention layer by name: maps (..., H, W, features) to the same shape and dtype.

    Args:
      kind: one of `list_attentions()`, or "none" for a layer that returns its input; or a class or
        function of your own, which is called as `kind(features, rngs=rngs, **options)`.
      features: channels of the map. Sizes that are not given as options are chosen to fit it.
      rngs: the random streams that parameters are drawn from.
      **options: keyword arguments of the layer, e.g. `groups=8` for "shuffle", `param_dtype`.

    Raises:
      ValueError: for an unknown kind (the nearest name is suggested), options that the kind does
        not have, or sizes that don't fit.
    """
    check_kind(kind, options)
    if kind == "none":
        return _identity
    build: Any = _ATTENTIONS[kind] if isinstance(kind, str) else kind
    layer = build(features, rngs=rngs, **options)
    if not callable(layer):
        raise InputError(
            f"the attention {getattr(kind, '__name__', kind)!r} made {layer!r}, which can't be "
            f"called. Return a layer that maps (..., H, W, {features}) to the same shape."
        )
    return layer


def check_kind(kind: Any, options: Mapping[str, Any]) -> None:
    """Raises InputError unless `make_attention` knows the kind, and the kind these options.

    What options a class or function of one's own has, is left to itself.
    """
    if not isinstance(kind, str):
        if not callable(kind):
            raise InputError(
                f"attention must be a name ({', '.join(list_attentions())}, none) or a class or "
                f"function that makes a layer; got {kind!r}."
            )
        return
    if kind == "none":
        unused = options.keys() - {"dtype", "param_dtype"}
        if unused:
            raise InputError(
                f"attention 'none' returns its input and has no options; got "
                f"{', '.join(sorted(unused))}. Leave them out, or name a kind: "
                f"{', '.join(list_attentions())}."
            )
        return
    if kind not in _ATTENTIONS:
        raise InputError(
            f"unknown attention {kind!r}.{_suggestion(kind)} Known: none, "
            f"{', '.join(list_attentions())}."
        )
    # Of the class itself, flax's metaclass shows (*args, **kwargs).
    accepted = inspect.signature(_ATTENTIONS[kind].__init__).parameters
    known = [name for name in accepted if name not in ("self", "features", "rngs")]
    for name in options:
        if name not in known:
            raise InputError(
                f"attention {kind!r} has no option {name!r}.{nearest(name, known)} Options: "
                f"{', '.join(known)}."
            )


def _suggestion(kind: str) -> str:
    plain = re.sub(r"[^a-z]", "", kind.lower())
    by_letters = {re.sub(r"[^a-z]", "", name): name for name in ("none", *_ATTENTIONS)}
    known = _OTHER_NAMES.get(plain) or by_letters.get(plain)
    return f" Did you mean {known!r}?" if known else nearest(kind, ["none", *_ATTENTIONS])


def _identity(x: jax.Array) -> jax.Array:
    return x
