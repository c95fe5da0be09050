"""Rules of the attention layers, relative to the layer, and the options that weights imply.

A further kind of attention is one more entry in `ATTENTION_RULES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from sa_flax.errors import InputError
from sa_flax.functional import eca_kernel_size
from sa_flax.functional.checks import default_groups
from sa_flax.modules.affinities import DANet, NonLocal, SelfAttention
from sa_flax.modules.masks import CBAM, ECA, SGE, DualAttention, SqueezeExcite
from sa_flax.modules.shuffle_attention import ShuffleAttention
from sa_flax.porting.rules import AS_IS, CHANNELS, DENSE, Rule, Transform

# A layer in the weights: the channels of its map, and its arrays by their names in the layer.
Slot = tuple[int, Mapping[str, np.ndarray]]

# Dense kernels that PyTorch has as 1 x 1 convolutions: (out, in, 1, 1) <-> (in, out).
POINTWISE = Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
# A convolution to one channel: (1, in, height, width) <-> (height, width, in).
TO_ONE = Transform(lambda x: x[0].transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)[None])
# A convolution along the channels: (1, 1, size) <-> (size,).
ALONG = Transform(lambda x: x[0, 0], lambda x: x[None, None])
# The bias of a convolution to one channel: (1,) <-> ().
SCALAR = Transform(lambda x: x[0], lambda x: x[None])


class UnknownWeightsError(InputError):
    """Weights that don't look like the architecture they are said to be."""


@dataclass(frozen=True)
class AttentionRules:
    """How one kind of attention is ported.

    Attributes:
      layer: the class here.
      rules: names in PyTorch's layer <-> names in ours.
      options: all layers of a network -> keyword arguments that they imply, {} for the defaults.
      optional: PyTorch's names that not every layer of the kind has.
    """

    layer: type
    rules: tuple[Rule, ...]
    options: Callable[[Sequence[Slot]], dict[str, Any]]
    optional: frozenset[str] = frozenset()

    def at(self, torch: str, flax: str) -> tuple[Rule, ...]:
        """The rules for a layer called `torch` there and `flax` here; both may have holes."""
        return tuple(
            Rule(f"{torch}.{rule.torch}", f"{flax}.{rule.flax}", rule.transform)
            for rule in self.rules
        )

    def knows(self, names: frozenset[str]) -> bool:
        """Whether a layer with these names is of this kind."""
        known = {rule.torch for rule in self.rules}
        return known - self.optional <= names <= known


def _size(
    option: str, slots: Sequence[Slot], found: list[int], defaults: list[int]
) -> dict[str, Any]:
    """A size that is an option: {} where it is the default in every layer."""
    if found == defaults:
        return {}
    if len(set(found)) == 1:
        return {option: found[0]}
    raise UnknownWeightsError(
        f"these attention layers have {option} {found} at {[f for f, _ in slots]} channels: no one "
        "number, nor the defaults. Build the network yourself and use load_torch."
    )


def _reduction(slots: Sequence[Slot], entry: str) -> dict[str, Any]:
    """The reduction that gives the hidden units: the first length of `entry`."""
    hidden = [(features, state[entry].shape[0]) for features, state in slots]
    # Several may: the usual ones first.
    for reduction in (4, 8, 16, *range(1, max(features for features, _ in hidden) + 1)):
        if all(max(features // reduction, 1) == units for features, units in hidden):
            return {"reduction": reduction}
    raise UnknownWeightsError(
        f"no one reduction gives the hidden units of these attention layers; (channels, units): "
        f"{sorted(set(hidden))}."
    )


def _shuffle_options(slots: Sequence[Slot]) -> dict[str, Any]:
    groups = [features // (2 * state["cweight"].size) for features, state in slots]
    defaults = [default_groups(features, 2) for features, _ in slots]
    return _size("groups", slots, groups, defaults)


def _eca_options(slots: Sequence[Slot]) -> dict[str, Any]:
    sizes = [state["conv.weight"].shape[-1] for _, state in slots]
    return _size("kernel_size", slots, sizes, [eca_kernel_size(features) for features, _ in slots])


def _sge_options(slots: Sequence[Slot]) -> dict[str, Any]:
    defaults = [default_groups(features) for features, _ in slots]
    return _size("groups", slots, [state["weight"].size for _, state in slots], defaults)


def _non_local_options(slots: Sequence[Slot]) -> dict[str, Any]:
    names = slots[0][1].keys()
    widths = [state["value.weight"].shape[0] for _, state in slots]
    options = _size("bottleneck", slots, widths, [max(features // 2, 1) for features, _ in slots])
    if "query.weight" not in names:
        options["affinity"] = "gaussian"
    elif "pair.weight" in names:
        options["affinity"] = "concatenation"
    elif "key.bias" in names:
        options["affinity"] = "dot_product"
    return options


def _gate_options(kernel_size: int | None = None):
    """The options of a gate with a hidden layer and, maybe, a spatial convolution."""

    def options(slots: Sequence[Slot]) -> dict[str, Any]:
        found = _reduction(slots, "reduce.weight")
        if kernel_size is None:
            return found
        sizes = [state["spatial.weight"].shape[-1] for _, state in slots]
        return found | _size("kernel_size", slots, sizes, [kernel_size] * len(slots))

    return options


def _affine(name: str, transform: Transform, bias: Transform = AS_IS) -> tuple[Rule, Rule]:
    return (
        Rule(f"{name}.weight", f"{name}_kernel", transform),
        Rule(f"{name}.bias", f"{name}_bias", bias),
    )


ATTENTION_RULES: dict[str, AttentionRules] = {
    # The names of the paper's code.
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
    # From here on there is no one convention: names are those of the layers here.
    "squeeze_excite": AttentionRules(
        SqueezeExcite, (*_affine("reduce", DENSE), *_affine("expand", DENSE)), _gate_options()
    ),
    "eca": AttentionRules(ECA, (Rule("conv.weight", "kernel", ALONG),), _eca_options),
    "cbam": AttentionRules(
        CBAM,
        (
            *_affine("reduce", DENSE),
            *_affine("expand", DENSE),
            *_affine("spatial", TO_ONE, SCALAR),
        ),
        _gate_options(7),
    ),
    "sge": AttentionRules(SGE, (Rule("weight", "weight"), Rule("bias", "bias")), _sge_options),
    "dual": AttentionRules(
        DualAttention,
        (
            *_affine("reduce", POINTWISE),
            *_affine("expand", POINTWISE),
            *_affine("spatial", TO_ONE, SCALAR),
            *_affine("merge", POINTWISE),
        ),
        _gate_options(5),
    ),
    "non_local": AttentionRules(
        NonLocal,
        (
            *_affine("query", POINTWISE),
            *_affine("key", POINTWISE),
            *_affine("value", POINTWISE),
            *_affine("out", POINTWISE),
            Rule("pair.weight", "pair_kernel", CHANNELS),
        ),
        _non_local_options,
        frozenset({"query.weight", "query.bias", "key.weight", "key.bias", "pair.weight"}),
    ),
    "self_attention": AttentionRules(
        SelfAttention,
        (
            *(
                Rule(f"{name}.weight", f"{name}_kernel", POINTWISE)
                for name in ("query", "key", "value", "out")
            ),
            Rule("gamma", "gamma"),
        ),
        lambda slots: _reduction(slots, "query.weight"),
    ),
    "danet": AttentionRules(
        DANet,
        (
            *_affine("query", POINTWISE),
            Rule("key.weight", "key_kernel", POINTWISE),
            *_affine("value", POINTWISE),
            Rule("position_scale", "position_scale"),
            Rule("channel_scale", "channel_scale"),
        ),
        lambda slots: _reduction(slots, "query.weight"),
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
