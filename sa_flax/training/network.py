"""The network of a run: built from its configuration, started from a saved one, saved beside it."""

import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sa_flax.config import Config, to_json
from sa_flax.errors import InputError, PortingError
from sa_flax.models.registry import create_model, model_class
from sa_flax.models.saved import (
    BEST_NETWORK,
    CONFIG,
    NETWORK,
    fill,
    from_pretrained,
    model_leaves,
    save_pretrained,
)
from sa_flax.strict_json import finite


def network_of(config: Config) -> nnx.Module:
    """The network that a training configuration describes, with the parameters its seed gives.

    Raises:
      InputError: for a network that is no denoiser, or can't be built with these options.
    """
    options = saved_options(config)
    if config.dtype != "float32":
        options["dtype"] = jnp.dtype(config.dtype)
    if config.optimizer.remat:
        options["remat"] = True
    try:
        return create_model(config.model.name, rngs=nnx.Rngs(config.seed), **options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # an option's value
        raise InputError(
            f"the network {config.model.name!r} can't be built from these options --model.*: "
            f"{error}"
        ) from error


def saved_options(config: Config) -> dict[str, Any]:
    """The options of `create_model` that make this network, in JSON's types.

    Entries that a network does not know, such as the levels of a DnCNN, are left out.

    Raises:
      InputError: for a network that is no denoiser, or lacks an option that was asked for.
    """
    accepted = known_options(config)
    if "num_classes" in accepted:
        raise InputError(f"{config.model.name} is not a denoiser; train attention_unet or dncnn.")
    for flag, asked in (
        ("--model.noise-level", config.model.noise_level),
        ("--optimizer.remat", config.optimizer.remat),
    ):
        if asked and flag.split(".")[1].replace("-", "_") not in accepted:
            raise InputError(f"{config.model.name} has no {flag}; attention_unet has.")
    return {name: value for name, value in config.model.options().items() if name in accepted}


def known_options(config: Config) -> frozenset[str]:
    """The options that the network of a configuration has.

    Raises:
      InputError: for an unknown network.
    """
    cls, _ = model_class(config.model.name)
    # Of the class itself, flax's metaclass shows (*args, **kwargs).
    return frozenset(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]


def start_from(model: nnx.Module, name: str) -> None:
    """Gives `model` the parameters of a saved network, in place (--init-from).

    Both must be of one shape, but for four exceptions. A gray network can start from a colour one:
    its first kernel is the sum over the colours, its last the mean, so that it does to a gray
    picture what the colour network does to three equal channels, on average over them. A U-Net can
    start from one with fewer blocks at a level: the blocks that are new begin as the identity, so
    that it does what the smaller one does. A U-Net with attention can start from one without: gates
    begin as constants, and the convolution before makes up for them, so that it does what that one
    does. And a U-Net without attention can start from a narrower one: the features that are new
    begin as its seed draws them, and nothing takes them up at first, so that it too does what the
    smaller one does (Chen et al., Net2Net, ICLR 2016).

    Raises:
      PretrainedError: where there is no such network.
      PortingError: where they don't fit; everything that does not is listed, and the options that
        ask for that network.
    """
    source, saved = from_pretrained(name)
    arrays = {path: np.asarray(leaf.get_value()) for path, leaf in model_leaves(source).items()}
    if (getattr(source, "channels", None), getattr(model, "channels", None)) == (3, 1):
        shapes = {path: leaf.get_value().shape for path, leaf in model_leaves(model).items()}
        arrays = {path: _to_gray(a, shapes.get(path, a.shape)) for path, a in arrays.items()}
    arrays = _widened(model, arrays)
    arrays |= _new_attention(model, arrays)
    try:
        fill(model, _new_blocks(model, arrays) | arrays, f"--init-from {name}")
    except PortingError as error:
        asked = _as_options(saved)
        error.args = (f"{error}\n  {name} itself is what these options ask for: {asked}",)
        raise


def _as_options(saved: Mapping[str, Any]) -> str:
    """The options --model.* that ask for a saved network, but for those that stand at nothing."""
    asked = {"name": saved["model"]} | dict(saved.get("options", {}))
    words = []
    for option, value in asked.items():
        if value is False or value == {}:
            continue
        if isinstance(value, Mapping):
            value = [word for pair in value.items() for word in pair]
        several = value if isinstance(value, list | tuple) else [value]
        words.append(f"--model.{option.replace('_', '-')} {' '.join(map(str, several))}")
    return " ".join(words)


# A parameter of a residual block of the U-Net: its stack, the block's number, its name there.
_OF_BLOCK = re.compile(r"((?:encoder\.\d+|bottom|decoder\.\d+)\.layers)\.\d+\.(.+)")


def _new_blocks(model: nnx.Module, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of the blocks that `given` lacks in stacks that it has, as the identity."""
    new = {}
    for path, leaf in model_leaves(model).items():
        match = _OF_BLOCK.fullmatch(path)
        if path in given or match is None or f"{match[1]}.0.{match[2]}" not in given:
            continue
        value = np.asarray(leaf.get_value())
        # The attention of nothing is nothing: a gate multiplies it, affinities average it.
        new[path] = np.zeros_like(value) if match[2].startswith("conv2.") else value
    return new


# What the gates of masks end in: with 0 there they don't depend on the map.
_GATES = ("expand_kernel", "spatial_kernel", "kernel")


def _new_attention(model: nnx.Module, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of the attention that the blocks of `given` lack, and of the convolutions before.

    The attention begins as a constant matrix M over the features (of gates it is diagonal), which
    the convolution before takes back: its kernel and its bias are multiplied by M^-1. Nothing for
    one that can't begin so.
    """
    new: dict[str, np.ndarray] = {}
    every = model_leaves(model)
    for path, block in nnx.iter_modules(model):
        name = ".".join(map(str, path))
        kernel, bias = f"{name}.conv2.kernel", f"{name}.conv2.bias"
        its = {leaf for leaf in every if leaf.startswith(f"{name}.attention.")}
        if not its or its & given.keys() or not {kernel, bias} <= given.keys():
            continue
        if every[kernel].get_value().shape != given[kernel].shape:  # what is listed as a misfit
            continue
        attention = nnx.clone(block.attention)  # type: ignore[attr-defined]
        attention.dtype = None  # for a bfloat16 network, too, all this is in float32
        leaves = model_leaves(attention)
        for leaf, variable in leaves.items():
            value = variable.get_value()
            if leaf in _GATES:
                variable.set_value(jnp.zeros_like(value))
            if leaf == "merge_kernel":  # the sum of two gated maps
                eye = jnp.eye(value.shape[1], dtype=value.dtype)
                variable.set_value(jnp.concatenate([eye] * (len(value) // len(eye))))
        matrix = _constant_matrix(attention, given[bias].size)
        if matrix is None:
            continue
        back = np.linalg.inv(matrix)
        new |= {kernel: given[kernel] @ back, bias: given[bias] @ back}
        new |= {f"{name}.attention.{leaf}": np.asarray(v.get_value()) for leaf, v in leaves.items()}
    return new


def _constant_matrix(attention: nnx.Module, features: int) -> np.ndarray | None:
    """What a layer multiplies the features of every pixel by, (C, C); None where it does more."""
    side = 8
    each = np.broadcast_to(
        np.eye(features, dtype=np.float32)[:, None, None], (features, side, side, features)
    )
    matrix = np.asarray(attention(jnp.asarray(each)))[:, 0, 0]
    x = np.random.default_rng(0).standard_normal((1, side, side, features)).astype(np.float32)
    if not np.allclose(np.asarray(attention(jnp.asarray(x))), x @ matrix, atol=1e-5):
        return None
    return matrix if np.linalg.cond(matrix) < 100 else None


# A parameter of a U-Net without attention.
_OF_CONVOLUTION = re.compile(
    r"(head|tail|(down|up)\.\d+\.conv|(encoder\.\d+|bottom|decoder\.\d+)\.layers\.\d+\.conv[12])\."
    r"(kernel|bias)"
)
# Which axes are features, where others are channels of the picture.
_FEATURES: dict[str, tuple[int, ...]] = {
    "head.kernel": (-1,),
    "tail.kernel": (-2,),
    "tail.bias": (),
}


def _widened(model: nnx.Module, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`given` with more features where `model` has more: new ones change none of the old ones.

    As it is where either of them has more than a U-Net's convolutions.
    """
    leaves = model_leaves(model)
    if not all(map(_OF_CONVOLUTION.fullmatch, (*leaves, *given))):
        return given
    wider = dict(given)
    for path in given.keys() & leaves.keys():
        value, old = np.array(leaves[path].get_value()), given[path]
        axes = _FEATURES.get(path, (-2, -1) if path.endswith("kernel") else (-1,))
        same = [axis for axis in range(-value.ndim, 0) if axis not in axes]
        if (
            value.ndim != old.ndim
            or any(value.shape[axis] != old.shape[axis] for axis in same)
            or any(value.shape[axis] < old.shape[axis] for axis in axes)
        ):
            continue
        if path.endswith("kernel"):  # (height, width, features in, features out)
            value[..., old.shape[2] :, : old.shape[3]] = 0
        value[tuple(map(slice, old.shape))] = old
        wider[path] = value
    return wider


def _to_gray(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A colour network's array for a gray network, where only the number of colours differs."""
    if array.ndim == 4 and (*array.shape[:2], 1, *array.shape[3:]) == shape:
        return array.sum(2, keepdims=True)
    if (*array.shape[:-1], 1) == shape:
        return array.mean(-1, keepdims=True)
    return array


def step_of_network(run: Path) -> int | None:
    """The step of the network that a run has kept; None without one."""
    try:
        kept = json.loads((run / NETWORK / CONFIG).read_text(encoding="utf-8"))
        return kept["training"]["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def best_score(run: Path, noises: Sequence[str]) -> float:
    """Mean PSNR in dB of the best network of a run over these noises.

    -infinity without one, and where it was not measured on all of them: then the next is the best.
    """
    try:
        kept = json.loads((run / BEST_NETWORK / CONFIG).read_text(encoding="utf-8"))
        scores = kept["training"]["validation_psnr"]
        return min(float(np.mean([scores[name] for name in noises])), 999.0)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not whole: it is made anew
        return -math.inf


def save_network(
    run: Path,
    model: nnx.Module,
    config: Config,
    *,
    step: int,
    scores: dict[str, float],
    scored_at: int | None = None,
    best: float | None = None,
) -> None:
    """Keeps the run's network, as it is now, in its folder `network` (see `models.saved`).

    Args:
      run: the run's directory.
      model: the network, with the averaged parameters.
      config: of the run.
      step: training steps done.
      scores: PSNR in dB on the validation pictures, by noise, of the last evaluation.
      scored_at: the step of that evaluation, where it was another one.
      best: the PSNR that makes it the best so far: it goes into the folder `best` instead.
    """
    scored_at = step if scored_at is None else scored_at
    training = {
        "step": step,
        "validation_psnr": finite(scores),
        "validated_at": scored_at,
        "config": json.loads(to_json(config)),
    }
    if best is not None:
        training["best_psnr"] = best
    save_pretrained(
        model,
        run / (NETWORK if best is None else BEST_NETWORK),
        config={
            "model": config.model.name,
            "options": saved_options(config),
            "training": training,
        },
        card=_card(run.name, config, step, scores, scored_at),
    )


def _card(name: str, config: Config, step: int, scores: dict[str, float], scored_at: int) -> str:
    measured = "".join(f"| {noise} | {psnr:.2f} |\n" for noise, psnr in scores.items())
    table = (
        f"| noise | PSNR, dB |\n| --- | --- |\n{measured}" if measured else "Not measured yet.\n"
    )
    data = config.data
    start = f" It started from the network {config.init_from}." if config.init_from else ""
    return f"""# {name}

A denoiser for {"gray" if config.model.channels == 1 else "colour"} pictures, trained by sa_flax.

- network: {config.model.name}, {json.dumps(saved_options(config))}
- noise: {config.noise}
- pictures: {data.source}
- training: {step} of {config.steps} steps of {data.batch_size} crops of {data.crop} x {data.crop}
  pixels, seed {config.seed}.{start}

On the validation pictures{f", at step {scored_at}" if scores and scored_at != step else ""}:

{table}
Its licence follows from the pictures it was trained on: say here what they are before you publish
it.
"""
