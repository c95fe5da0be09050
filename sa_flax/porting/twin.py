"""A network's PyTorch twin: the module with its weights, and the file that holds both."""

import itertools
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from sa_flax.errors import InputError
from sa_flax.models.dncnn import DnCNN, fold_batch_norm
from sa_flax.models.unet import AttentionUNet
from sa_flax.modules.attention import make_attention
from sa_flax.porting.architectures import blocks_option, unet_places, width_option
from sa_flax.porting.attention_rules import (
    ATTENTION_RULES,
    Slot,
    UnknownWeightsError,
    rules_of_layer,
)
from sa_flax.porting.checkpoints import write_checkpoint
from sa_flax.porting.convert import to_torch

# What the twin's layers have built in.
_EPSILON = 1e-5


@dataclass(frozen=True)
class Twin:
    """A network as PyTorch has it.

    Attributes:
      architecture: the class's name there, "AttentionUNet" or "DnCNN".
      options: the keyword arguments of the class; JSON.
      weights: its state dict.
    """

    architecture: str
    options: dict[str, Any]
    weights: dict[str, np.ndarray]

    @property
    def takes_noise_level(self) -> bool:
        """Whether it is called with the noise level besides."""
        return bool(self.options.get("noise_level"))

    def module(self) -> Any:
        """The network, a `torch.nn.Module` in evaluation mode: (B, C, H, W) -> (B, C, H, W)."""
        import torch

        if self.architecture == "AttentionUNet":
            from sa_flax.porting.torch_unet import AttentionUNet as Module

            module: Any = Module(**self.options)
        else:
            module = _torch_dncnn(**self.options)
        weights = {name: torch.from_numpy(array) for name, array in self.weights.items()}
        module.load_state_dict(weights, strict=True)
        return module.eval()


def check_no_window(model: nnx.Module) -> None:
    """Raises InputError for a network whose attention takes statistics over a window."""
    for _, layer in nnx.iter_modules(model):
        window = getattr(layer, "window", None)
        if window is not None:
            raise InputError(
                "statistics over a window can't be exported: take the network without "
                "with_window(), and let the other program work on tiles of about "
                f"{window[0]} x {window[1]} pixels."
            )


def twin_of(model: nnx.Module) -> Twin:
    """The PyTorch twin of a denoiser.

    DnCNN's batch norm is folded into its convolutions, which all have biases; they are called
    "model.0.weight" and so on, as in KAIR, so that spandrel and what is built on it knows them.

    Raises:
      InputError: for another network, and for attention that the twin does not have: over a window
        (`with_window`), with another epsilon, or of a class of your own.
    """
    check_no_window(model)
    if isinstance(model, AttentionUNet):
        options = _unet_options(model)
        weights = {n: np.asarray(a, np.float32) for n, a in to_torch(model).items()}
        return Twin("AttentionUNet", options, weights)
    if isinstance(model, DnCNN):
        folded = fold_batch_norm(model)
        weights = {
            n.replace("dncnn.", "model."): np.asarray(a, np.float32)
            for n, a in to_torch(folded).items()
        }
        for name in [name for name in weights if name.endswith(".weight")]:
            width = weights[name].shape[0]
            weights.setdefault(name.replace(".weight", ".bias"), np.zeros(width, np.float32))
        sizes = {"channels": model.channels, "depth": model.depth, "width": model.width}
        return Twin("DnCNN", sizes, weights)
    raise InputError(
        f"{type(model).__name__} has no PyTorch twin to export; AttentionUNet and DnCNN have."
    )


def _unet_options(model: AttentionUNet) -> dict[str, Any]:
    places = unet_places(model)
    down = [*(places[f"encoder.{i}"] for i in range(model.levels - 1)), places["bottom"]]
    options: dict[str, Any] = {
        "channels": model.channels,
        "width": width_option([blocks[0].features for blocks in down]),
        "levels": model.levels,
        "blocks": blocks_option([len(blocks) for blocks in down]),
        "attention": "none",
        "attend": "none",
        "noise_level": model.noise_level,
    }
    kinds: dict[str, str] = {}
    for place, blocks in places.items():
        kind = _kind_of(blocks[0].attention)
        if kind is not None:
            kinds[place] = kind
            for block in blocks:
                _check_twin_has(block.attention)
    if not kinds:
        return options
    layers = {place: [block.attention for block in places[place]] for place in kinds}
    attend = _side(frozenset(kinds), frozenset(places))
    if attend is not None and len(set(kinds.values())) == 1:
        try:
            chosen = _options_of([layer for found in layers.values() for layer in found])
        except UnknownWeightsError:  # no one set of options fits all places
            pass
        else:
            return options | {
                "attention": next(iter(kinds.values())),
                "attend": attend,
                "attention_options": chosen,
            }
    by_place = {place: _options_of(found) for place, found in layers.items()}
    return options | {"attention": kinds, "attend": "both", "attention_options": by_place}


def _kind_of(layer: Any) -> str | None:
    rules = rules_of_layer(layer)
    if rules is None and layer is not make_attention("none", 1, rngs=nnx.Rngs(0)):
        raise InputError(f"attention of your own, {layer!r}, has no PyTorch twin.")
    return next((kind for kind, known in ATTENTION_RULES.items() if known is rules), None)


def _side(attended: frozenset[str], places: frozenset[str]) -> str | None:
    """What `attend` puts attention at exactly these places, None where nothing does."""
    for side in ("encoder", "decoder"):
        if attended == {place for place in places if place.startswith(side)}:
            return side
    return "both" if attended == places else None


def _options_of(layers: list[Any]) -> dict[str, Any]:
    """Options of layers of one kind in the twin. Raises UnknownWeightsError where they differ."""
    rules = rules_of_layer(layers[0])
    assert rules is not None
    slots: list[Slot] = []
    for layer in layers:
        names = (
            (rule.torch, rule.transform, getattr(layer, rule.flax, None)) for rule in rules.rules
        )
        arrays = {name: how.to_torch(np.asarray(v[...])) for name, how, v in names if v is not None}
        slots.append((layer.features, arrays))
    options = rules.options(slots)
    steps = {getattr(layer, "subsample", 1) for layer in layers}
    if len(steps) > 1:
        raise UnknownWeightsError(f"these attention layers subsample by {sorted(steps)}.")
    return options if steps == {1} else options | {"subsample": steps.pop()}


def _check_twin_has(layer: Any) -> None:
    if getattr(layer, "epsilon", _EPSILON) != _EPSILON:
        raise InputError(
            f"attention with epsilon={layer.epsilon:g} has no PyTorch twin; {_EPSILON:g} has."
        )


def _torch_dncnn(channels: int, depth: int, width: int) -> Any:
    """DnCNN without batch norm, named as in KAIR."""
    from torch import nn

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [channels, *[width] * (depth - 1), channels]
            layers: list[nn.Module] = []
            for before, after in itertools.pairwise(sizes):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            self.model = nn.Sequential(*layers[:-1])

        def forward(self, noisy):
            return noisy - self.model(noisy)

    return Module()


def write_torch_file(model: nnx.Module, path: str | os.PathLike[str]) -> None:
    """Writes a network's weights with its options, for PyTorch.

    A .pth or .pt file (needs PyTorch) is {"params": the state dict, "architecture": the class's
    name, "options": its keyword arguments}. "params" is where spandrel and others look: they know a
    `DnCNN` of 8 or more convolutions without being told; an `AttentionUNet` is read by
    `torch_unet.load`, in the file torch_unet.py beside this one. A .safetensors file holds the
    state dict, and the rest as its metadata.

    Raises:
      InputError: as `twin_of`.
      CheckpointError: for another ending, or where PyTorch is needed and not installed.
      StorageError: where the file can't be written.
    """
    twin = twin_of(model)
    about = {"architecture": twin.architecture, "options": twin.options}
    write_checkpoint(path, twin.weights, about=about)
