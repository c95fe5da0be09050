"""Rules of the attention layers, relative to the layer, and the options that weights imply.

A further kind of attention is one more entry in `ATTENTION_RULES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from sa_flax.errors import InputError
from sa_flax.functional.shuffle_attention import fitting_groups
from sa_flax.modules.attention import ShuffleAttention, SqueezeExcite
from sa_flax.porting.rules import CHANNELS, Rule, Transform

# A layer in the weights: the channels of its map, and its arrays by their names in the layer.
Slot = tuple[int, Mapping[str, np.ndarray]]

# Dense kernels that PyTorch has as 1 x 1 convolutions: (out, in, 1, 1) <-> (in, out).
POINTWISE = Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


class UnknownWeightsError(InputError):
    """Weights that don't look like the architecture they are said to be."""


@dataclass(frozen=True)
class AttentionRules:
    """How one kind of attention is ported.

    Attributes:
      layer: the class here.
      rules: names in PyTorch's layer <-> names in ours.
      options: all layers of a network -> keyword arguments that they imply, {} for the defaults.
    """

    layer: type
    rules: tuple[Rule, ...]
    options: Callable[[Sequence[Slot]], dict[str, Any]]

    def at(self, torch: str, flax: str) -> tuple[Rule, ...]:
        """The rules for a layer called `torch` there and `flax` here; both may have holes."""
        return tuple(
            Rule(f"{torch}.{rule.torch}", f"{flax}.{rule.flax}", rule.transform)
            for rule in self.rules
        )

    def knows(self, names: frozenset[str]) -> bool:
        """Whether a layer with these names is of this kind."""
        return names == {rule.torch for rule in self.rules}


def _shuffle_options(slots: Sequence[Slot]) -> dict[str, Any]:
    groups = [features // (2 * state["cweight"].size) for features, state in slots]
    defaults = [max(g for g in fitting_groups(features) if g <= 8) for features, _ in slots]
    if groups == defaults:
        return {}
    if len(set(groups)) == 1:
        return {"groups": groups[0]}
    raise UnknownWeightsError(
        f"the shuffle attentions have different numbers of groups, {sorted(set(groups))}, and not "
        "the ones that are chosen by default; build the network yourself and use load_torch."
    )


def _squeeze_excite_options(slots: Sequence[Slot]) -> dict[str, Any]:
    hidden = [(features, state["fc1.weight"].shape[0]) for features, state in slots]
    widest = max(features for features, _ in hidden)
    for reduction in (4, 16, *range(1, widest + 1)):
        if all(max(features // reduction, 1) == units for features, units in hidden):
            return {"reduction": reduction}
    raise UnknownWeightsError(
        f"no one reduction gives the hidden units of these squeeze-and-excitation layers "
        f"(channels, units): {sorted(set(hidden))}."
    )


ATTENTION_RULES: dict[str, AttentionRules] = {
    "shuffle": AttentionRules(
        ShuffleAttention,
        (
            Rule("cweight", "channel_weight", CHANNELS),
            Rule("cbias", "channel_bias", CHANNELS),
            Rule("sweight", "spatial_weight", CHANNELS),
            Rule("sbias", "spatial_bias", CHANNELS),
            Rule("gn.weight", "norm_scale"),
            Rule("gn.bias", "norm_bias"),
        ),
        _shuffle_options,
    ),
    # fc1 and fc2: 1 x 1 convolutions, as torchvision names them.
    "squeeze_excite": AttentionRules(
        SqueezeExcite,
        (
            Rule("fc1.weight", "reduce_kernel", POINTWISE),
            Rule("fc1.bias", "reduce_bias"),
            Rule("fc2.weight", "expand_kernel", POINTWISE),
            Rule("fc2.bias", "expand_bias"),
        ),
        _squeeze_excite_options,
    ),
}


def rules_of_layer(layer: Any) -> AttentionRules | None:
    """The rules of an attention layer; None for the layer that does nothing.

    Raises:
      InputError: for a layer without rules.
    """
    if not isinstance(layer, nnx.Module):
        return None
    for known in ATTENTION_RULES.values():
        if isinstance(layer, known.layer):
            return known
    raise InputError(
        f"no porting rules for the attention {type(layer).__name__}; there are rules for "
        f"{', '.join(ATTENTION_RULES)}."
    )


def kind_of_slots(slots: Sequence[Slot]) -> str:
    """The kind of attention that all these layers' names belong to.

    Raises:
      UnknownWeightsError: where there is none, or more than one.
    """
    names = {frozenset(state) for _, state in slots}
    fitting = [
        kind for kind, known in ATTENTION_RULES.items() if all(known.knows(n) for n in names)
    ]
    if len(fitting) != 1:
        found = ", ".join(sorted(set().union(*names)))
        raise UnknownWeightsError(
            f"can't tell the kind of attention from the entries {found}; known kinds: "
            f"{', '.join(ATTENTION_RULES)}."
        )
    return fitting[0]
