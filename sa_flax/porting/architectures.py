"""What is known of each architecture's PyTorch weights: the rule tables, and what they imply.

An architecture may have several tables, one for each way its weights are named in the wild; the
first is the one that is written.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from sa_flax.errors import InputError
from sa_flax.models.dncnn import DnCNN
from sa_flax.models.sa_resnet import SAResNet
from sa_flax.models.unet import AttentionUNet
from sa_flax.modules.layer import Attention
from sa_flax.porting.attention_rules import (
    ATTENTION_RULES,
    Slot,
    UnknownWeightsError,
    kind_of_slots,
    rules_of_layer,
)
from sa_flax.porting.rules import CONV, DENSE, Exempt, Rule, RuleTable

State = Mapping[str, np.ndarray]
Options = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """How one class of networks is ported.

    Attributes:
      tables: model -> its rule tables, the one that is written first.
      options: PyTorch state -> keyword arguments of the class that its names and shapes imply.
    """

    tables: Callable[[Any], tuple[RuleTable, ...]]
    options: Callable[[State], Options]


def norm_rules(torch: str, flax: str) -> tuple[tuple[Rule, ...], Exempt]:
    """Rules for a batch norm, and its step counter, which nothing here counts."""
    rules = (
        Rule(f"{torch}.weight", f"{flax}.scale"),
        Rule(f"{torch}.bias", f"{flax}.bias"),
        Rule(f"{torch}.running_mean", f"{flax}.mean"),
        Rule(f"{torch}.running_var", f"{flax}.var"),
    )
    counter = Exempt(f"{torch}.num_batches_tracked", beside=f"{flax}.mean", value=np.int64(0))
    return rules, counter


def conv_rules(torch: str, flax: str) -> tuple[Rule, Rule]:
    """Rules for a convolution with or without bias."""
    return (
        Rule(f"{torch}.weight", f"{flax}.kernel", CONV),
        Rule(f"{torch}.bias", f"{flax}.bias"),
    )


# DnCNN: a Sequential named `dncnn` (DnCNN-PyTorch) or `model` (KAIR), ReLUs counted, so that with
# batch norm the hidden layers come in threes and without in twos.


def _dncnn_table(prefix: str, batch_norm: bool) -> RuleTable:
    if not batch_norm:
        return RuleTable(f"DnCNN, {prefix}.*", conv_rules(f"{prefix}.{{2*i}}", "convs.{i}"))
    norms, counter = norm_rules(f"{prefix}.{{3*i+3}}", "norms.{i}")
    rules = (
        *conv_rules(f"{prefix}.0", "convs.0"),
        *conv_rules(f"{prefix}.{{3*i+2}}", "convs.{i+1}"),
        *norms,
    )
    return RuleTable(f"DnCNN with batch norm, {prefix}.*", rules, (counter,))


def _dncnn_tables(model: DnCNN) -> tuple[RuleTable, ...]:
    return tuple(_dncnn_table(prefix, model.batch_norm) for prefix in ("dncnn", "model"))


def _dncnn_options(state: State) -> Options:
    first = next((state[n] for n in ("dncnn.0.weight", "model.0.weight") if n in state), None)
    if first is None or first.ndim != 4:
        raise UnknownWeightsError(
            "not DnCNN's weights: neither dncnn.0.weight nor model.0.weight is a convolution "
            "kernel."
        )
    return {
        "channels": first.shape[1],
        "depth": sum(array.ndim == 4 for array in state.values()),
        "width": first.shape[0],
        "batch_norm": any(name.endswith(".running_mean") for name in state),
        "bias": any(re.fullmatch(r"(dncnn|model)\.0\.bias", name) for name in state),
    }


# The attention U-Net. Its blocks are counted in a Sequential on both sides.

_UNET_ATTENTION = re.compile(r"((encoder|decoder)\.\d+\.\d+|(bottom)\.\d+)\.attention\.(.+)")


def unet_places(model: AttentionUNet) -> dict[str, list[Any]]:
    """The residual blocks at each place, "encoder.0", "bottom", "decoder.0" and so on."""
    stacks: dict[str, Any] = {"bottom": model.bottom}
    for side in ("encoder", "decoder"):
        stacks |= {f"{side}.{level}": stack for level, stack in enumerate(getattr(model, side))}
    return {place: list(stack.layers) for place, stack in stacks.items()}


def blocks_option(counts: Sequence[int]) -> int | list[int]:
    """The U-Net's option `blocks` for so many at each level, the finest first."""
    return counts[0] if len(set(counts)) == 1 else list(counts)


def width_option(widths: Sequence[int]) -> int | list[int]:
    """The U-Net's option `width` for so many features at each level, the finest first."""
    doubled = all(b == 2 * a for a, b in itertools.pairwise(widths))
    return widths[0] if doubled else list(widths)


def _unet_tables(model: AttentionUNet) -> tuple[RuleTable, ...]:
    rules: list[Rule] = []
    for torch, flax in (("head", "head"), ("tail", "tail")):
        rules += conv_rules(torch, flax)
    for side in ("down", "up"):
        rules += conv_rules(f"{side}.{{level}}.conv", f"{side}.{{level}}.conv")
    for place, blocks in unet_places(model).items():
        torch, flax = f"{place}.{{block}}", f"{place}.layers.{{block}}"
        for conv in ("conv1", "conv2"):
            rules += conv_rules(f"{torch}.{conv}", f"{flax}.{conv}")
        known = rules_of_layer(blocks[0].attention)  # all blocks of a place have the same kind
        if known is not None:
            rules += known.at(f"{torch}.attention", f"{flax}.attention")
    return (RuleTable("AttentionUNet", tuple(rules)),)


def _unet_options(state: State) -> Options:
    head, tail = state.get("head.weight"), state.get("tail.weight")
    if head is None or tail is None or head.ndim != 4 or tail.ndim != 4:
        raise UnknownWeightsError(
            "not the attention U-Net's weights: head.weight and tail.weight are not both there as "
            "convolution kernels."
        )
    layers: dict[str, dict[str, np.ndarray]] = {}
    sides = set()
    for name, array in state.items():
        match = _UNET_ATTENTION.fullmatch(name)
        if match:
            layers.setdefault(match[1], {})[match[4]] = array
            sides.add(match[2] or match[3])
    slots: list[Slot] = [
        (state[f"{block}.conv2.weight"].shape[0], arrays)
        for block, arrays in layers.items()
        if f"{block}.conv2.weight" in state
    ]
    levels = 1 + sum(bool(re.fullmatch(r"up\.\d+\.conv\.weight", name)) for name in state)
    blocks = [
        sum(bool(re.fullmatch(rf"{place}\.\d+\.conv1\.weight", name)) for name in state)
        for place in (*(rf"encoder\.{i}" for i in range(levels - 1)), "bottom")
    ]
    widths = [head.shape[0]]
    for level in range(levels - 1):
        down = state.get(f"down.{level}.conv.weight")
        # One that is missing or damaged is named when the network is filled.
        if down is None or down.ndim != 4:
            widths.append(2 * widths[-1])
        else:
            widths.append(down.shape[0])
    options: Options = {
        "channels": tail.shape[0],
        "width": width_option(widths),
        "levels": levels,
        "blocks": blocks_option(blocks),
        "noise_level": head.shape[1] > tail.shape[0],
        "attention": "none",
        "attend": "none",
    }
    if slots:
        kind = kind_of_slots(slots)
        options["attention"] = kind
        options["attend"] = sides.pop() if len(sides) == 1 and "bottom" not in sides else "both"
        chosen = ATTENTION_RULES[kind].options(slots)
        if chosen:
            options["attention_options"] = chosen
    return options


# SA-ResNet, as the paper's code names it: torchvision's names, and `sa` in every block.


def _sa_resnet_tables(model: SAResNet) -> tuple[RuleTable, ...]:
    block, ours = "layer{stage+1}.{block}", "stages.{stage}.{block}"
    rules = [*conv_rules("conv1", "conv1")]
    exempt = []
    norms = [("bn1", "bn1"), (f"{block}.downsample.1", f"{ours}.shortcut_bn")]
    for n in (1, 2, 3):
        rules += conv_rules(f"{block}.conv{n}", f"{ours}.conv{n}")
        norms.append((f"{block}.bn{n}", f"{ours}.bn{n}"))
    rules += conv_rules(f"{block}.downsample.0", f"{ours}.shortcut_conv")
    for torch, flax in norms:
        norm, counter = norm_rules(torch, flax)
        rules += norm
        exempt.append(counter)
    rules += ATTENTION_RULES["shuffle"].at(f"{block}.sa", f"{ours}.sa")
    if model.features_only:  # the classifier's weights may be there, and are not wanted
        exempt += [Exempt("fc.weight"), Exempt("fc.bias")]
    else:
        rules += [Rule("fc.weight", "fc.kernel", DENSE), Rule("fc.bias", "fc.bias")]
    return (RuleTable("SAResNet", tuple(rules), tuple(exempt)),)


def _sa_resnet_options(state: State) -> Options:
    first, gate = state.get("conv1.weight"), state.get("layer1.0.sa.cweight")
    if first is None or gate is None or first.ndim != 4 or not gate.size:
        raise UnknownWeightsError(
            "not SA-ResNet's weights: conv1.weight and layer1.0.sa.cweight are not both there."
        )
    options: Options = {
        "blocks": tuple(
            sum(bool(re.fullmatch(rf"layer{s}\.\d+\.conv1\.weight", name)) for name in state)
            for s in (1, 2, 3, 4)
        ),
        "width": first.shape[0],
        "channels": first.shape[1],
        "groups": 4 * first.shape[0] // (2 * gate.size),
    }
    classifier = state.get("fc.weight")
    if classifier is None:
        return options | {"features_only": True}
    return options | {"num_classes": classifier.shape[0]}


_ARCHITECTURES: dict[type, Architecture] = {
    AttentionUNet: Architecture(_unet_tables, _unet_options),
    DnCNN: Architecture(_dncnn_tables, _dncnn_options),
    SAResNet: Architecture(_sa_resnet_tables, _sa_resnet_options),
}


def architecture_of(cls: type) -> Architecture:
    """How networks of class `cls` are ported.

    Raises:
      InputError: for a class without rules.
    """
    for known, architecture in _ARCHITECTURES.items():
        if issubclass(cls, known):
            return architecture
    names = ", ".join(known.__name__ for known in _ARCHITECTURES)
    kinds = ", ".join(known.layer.__name__ for known in ATTENTION_RULES.values())
    raise InputError(
        f"no porting rules for {cls.__name__}; there are rules for the networks {names} and the "
        f"layers {kinds}."
    )


def rule_tables(model: nnx.Module) -> tuple[RuleTable, ...]:
    """The rule tables of a network or of an attention layer, the one that is written first.

    Raises:
      InputError: for anything else.
    """
    if isinstance(model, Attention):
        rules = rules_of_layer(model)
        if rules is not None:
            return (RuleTable(type(model).__name__, rules.rules),)
    return architecture_of(type(model)).tables(model)
