"""Trained networks as directories: `config.json` and `model.safetensors`, the hub's convention.

`config.json` holds `{"model": name, "options": {...}}`, what `create_model` takes, and whatever
else one wants to note; `model.safetensors` holds every parameter and statistic under its Flax path,
e.g. `convs.0.kernel`.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sa_flax.errors import InputError, nearest
from sa_flax.limits import LARGEST_CHECKPOINT
from sa_flax.models.dncnn import DnCNN, fold_batch_norm
from sa_flax.models.registry import create_model, model_class
from sa_flax.porting.checkpoints import read_checkpoint, write_checkpoint
from sa_flax.porting.convert import build_from_torch, model_leaves, to_torch
from sa_flax.porting.rules import PortingError

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Released networks: name -> directory, or OWNER/NAME on the hub.
_RELEASED: dict[str, str] = {}


class PretrainedError(InputError):
    """A trained network that can't be found or fetched."""


def list_pretrained() -> list[str]:
    """The names of released networks that `from_pretrained` knows, in alphabetical order."""
    return sorted(_RELEASED)


def save_pretrained(
    model: nnx.Module, directory: str | os.PathLike[str], *, config: Mapping[str, Any]
) -> None:
    """Writes a network to `directory`, for `from_pretrained`.

    Args:
      model: the network.
      directory: made where it does not exist; the two files in it are replaced.
      config: {"model": name, "options": {...}}, the arguments of `create_model` that built the
        network, and any further entries to note beside them. JSON.

    Raises:
      InputError: where `config` does not build this network, or is not JSON.
      OSError: where the directory can't be written.
    """
    abstract = _build(config, "config")
    leaves = {path: leaf.get_value() for path, leaf in model_leaves(model).items()}
    described = {path: leaf.get_value().shape for path, leaf in model_leaves(abstract).items()}
    if described != {path: leaf.shape for path, leaf in leaves.items()}:
        path = sorted(set(described.items()) ^ {(p, leaf.shape) for p, leaf in leaves.items()})[0][
            0
        ]
        raise InputError(
            f"config does not describe this network: {config['model']!r} with options "
            f"{dict(config.get('options', {}))} has {described.get(path, 'nothing')} at {path}, "
            f"the network has {leaves[path].shape if path in leaves else 'nothing'}. Give the "
            "arguments that create_model was called with."
        )
    try:
        text = json.dumps(dict(config), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"config must be JSON: {error}.") from error
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    write_checkpoint(directory / _WEIGHTS, arrays, layout="flax")
    partial = directory / f".{_CONFIG}.{os.getpid()}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, directory / _CONFIG)


def from_pretrained(
    name: str | os.PathLike[str], *, revision: str | None = None
) -> tuple[nnx.Module, dict[str, Any]]:
    """A trained network and its config.

    Args:
      name: a directory that `save_pretrained` wrote, a released name (`list_pretrained()`), or
        OWNER/NAME on the Hugging Face hub (needs the package huggingface_hub).
      revision: branch, tag or commit on the hub.

    Returns:
      The network, in evaluation mode, and the content of its config.json.

    Raises:
      PretrainedError: where there is no such network, or it can't be fetched.
      InputError: where its files are damaged or don't fit each other; everything that does not fit
        is listed.
    """
    directory = _find(os.fspath(name), revision)
    config = _read_config(directory / _CONFIG)
    model = _build(config, str(directory / _CONFIG))
    if not (directory / _WEIGHTS).is_file():
        raise PretrainedError(f"{directory}: has no {_WEIGHTS}.")
    source = read_checkpoint(directory / _WEIGHTS)
    leaves = model_leaves(model)
    shapes = {path: leaf.get_value().shape for path, leaf in leaves.items()}
    unused = [f"{path} {array.shape}" for path, array in source.items() if path not in shapes]
    unfilled = [f"{path} {shape}" for path, shape in shapes.items() if path not in source]
    misfits = [
        f"{path}: has shape {source[path].shape}; the network needs {shape}"
        for path, shape in shapes.items()
        if path in source and source[path].shape != shape
    ]
    misfits += [
        f"{path}: holds {array.dtype}; parameters are floating-point numbers"
        for path, array in source.items()
        if not jnp.issubdtype(array.dtype, jnp.floating)
    ]
    misfits += [
        f"{path}: holds values that are not finite (the training diverged, or the file is damaged)"
        for path, array in source.items()
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all()
    ]
    if unused or unfilled or misfits:
        raise PortingError(
            f"{directory}: {_WEIGHTS} does not hold the network that {_CONFIG} describes",
            unused=unused,
            unfilled=unfilled,
            misfits=misfits,
        )
    for path, leaf in leaves.items():
        leaf.set_value(jnp.asarray(source[path], leaf.get_value().dtype))
    model.eval()
    return model, config


def port_checkpoint(
    source: str | os.PathLike[str],
    architecture: str,
    output: str | os.PathLike[str],
    *,
    fold: bool = False,
    torch_file: str | os.PathLike[str] | None = None,
    largest: int = LARGEST_CHECKPOINT,
    **options: Any,
) -> nnx.Module:
    """Ports a PyTorch checkpoint to a directory that `from_pretrained` reads.

    Args:
      source: a .pth, .pth.tar, .pt or .safetensors file.
      architecture: one of `sa_flax.list_models()`.
      output: the directory to write.
      fold: fold DnCNN's batch norm into its convolutions.
      largest: the most bytes that the checkpoint may take in memory.
      torch_file: also write the weights under PyTorch's names, to this .pth, .pt or .safetensors.
      **options: as for `porting.from_torch`.

    Returns:
      The network, in evaluation mode.

    Raises:
      InputError, OSError: as `porting.from_torch` and `save_pretrained`.
    """
    model_class(architecture)  # before a large file is read for an unknown name
    weights = read_checkpoint(source, largest=largest)
    model, chosen = build_from_torch(architecture, weights, options)
    if fold:
        if not isinstance(model, DnCNN):
            raise InputError(f"only DnCNN's batch norm can be folded; {architecture!r} is none.")
        model = fold_batch_norm(model)
        chosen = chosen | {"batch_norm": False, "bias": True}
    config = {
        "model": architecture,
        "options": chosen,
        "source": {"file": Path(source).name, "format": "pytorch", "batch_norm_folded": fold},
    }
    save_pretrained(model, output, config=config)
    if torch_file is not None:
        write_checkpoint(torch_file, to_torch(model))
    return model


def _build(config: Mapping[str, Any], origin: str) -> nnx.Module:
    """The network that a config describes, without arrays."""
    name, options = config.get("model"), config.get("options", {})
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise InputError(
            f'{origin}: needs "model", a name from list_models(), and "options", the arguments of '
            f"create_model; got model={name!r}, options={options!r}."
        )
    try:
        return nnx.eval_shape(lambda: create_model(name, **options, rngs=nnx.Rngs(0)))
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise InputError(
            f"{origin}: {name!r} can't be built from these options: {error}."
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PretrainedError(
            f"{path.parent}: has no {path.name}, so it holds no trained network. "
            "`sa-flax port` and save_pretrained write such directories."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8, so it is damaged: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}.") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: must hold an object, not a {type(config).__name__}.")
    return config


def _find(name: str, revision: str | None) -> Path:
    """The local directory of a network, fetched where it is on the hub."""
    if os.path.isdir(name):
        return Path(name)
    if name in _RELEASED:
        return _find(_RELEASED[name], revision)
    if _HUB_NAME.fullmatch(name):
        return _fetch(name, revision)
    known = ", ".join(list_pretrained()) or "none in this version"
    raise PretrainedError(
        f"{name!r} is no directory and no released network.{nearest(name, _RELEASED)} "
        f"Released: {known}. Give one of them, a directory with {_CONFIG} and {_WEIGHTS}, or "
        "OWNER/NAME on the hub."
    )


def _fetch(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PretrainedError(
            f"{name!r} is no directory here. To fetch it from the Hugging Face hub, install "
            "huggingface_hub: pip install 'sa_flax[hub]'."
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[_CONFIG, _WEIGHTS]))
    except Exception as error:  # its errors differ between versions and transports
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PretrainedError(
            f"{name!r} is no directory here, and fetching it from the Hugging Face hub failed. "
            "Check the name and the network; with the files at hand, give their directory.\n"
            f"  The hub says: {reason}"
        ) from error
