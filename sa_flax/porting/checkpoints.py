"""Reading PyTorch checkpoints without running what is in them, and writing them.

`.safetensors` needs no PyTorch. `.pth`, `.pth.tar`, `.pt`, `.ckpt` and `.bin` are pickles: they go
through `torch.load(weights_only=True)`, which builds tensors and plain containers and refuses
everything else.
"""

import contextlib
import json
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from sa_flax.errors import CheckpointError
from sa_flax.files import write_whole
from sa_flax.limits import LARGEST_CHECKPOINT
from sa_flax.models import sizes
from sa_flax.models.weight_files import check_size, one_line, read_safetensors

_PICKLED = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin")
_READABLE = (*_PICKLED, ".safetensors")
# What training scripts wrap weights in, the averaged ones before the others.
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's
# Before 2.6, weights_only=True could be made to run code (CVE-2025-32434).
_SAFE_TORCH = (2, 6)


def _import_torch(path: Path):
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading or writing {path.suffix} files needs PyTorch, which is not "
            "installed. Install it (pip install torch), or use .safetensors."
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < _SAFE_TORCH:
        raise CheckpointError(
            f"{path}: PyTorch {torch.__version__} cannot read pickled weights safely; update it to "
            "2.6 or later, or use .safetensors."
        )
    return torch


def _read_pickled(path: Path, largest: int) -> Any:
    torch = _import_torch(path)
    try:
        check_size(path, sizes.of_zip(path), largest)
        with warnings.catch_warnings():  # about formats; what matters of them becomes an error
            warnings.simplefilter("ignore")
            # Names and shapes first: on the device "meta" tensors take no memory.
            described = torch.load(path, map_location="meta", weights_only=True)
            check_size(path, sizes.of_tensors(described), largest)
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain containers, or is damaged, and was not "
            "loaded, since unpickling it could run code. If you trust where it comes from, load "
            "it in PyTorch yourself and save only its state_dict() with torch.save.\n"
            f"  PyTorch says: {one_line(error)}"
        ) from error
    except Exception as error:  # damaged files make the reader fail in any way whatever
        raise CheckpointError(
            f"{path}: is no PyTorch checkpoint, or is cut short or damaged.\n"
            f"  PyTorch says: {one_line(error)}"
        ) from error


def unwrap(source: Mapping[str, Any]) -> dict[str, Any]:
    """The innermost name -> array mapping of a checkpoint.

    Follows `params_ema`, `params`, `state_dict`, `model_state_dict` and `model` entries (averaged
    weights are preferred, whatever else stands beside is left out), then takes `module.` and
    `_orig_mod.` off the front where every name has it.
    """
    inner: Mapping[str, Any] = source
    while True:
        wrapped = [key for key in _WRAPPERS if isinstance(inner.get(key), Mapping)]
        if not wrapped:
            break
        inner = inner[wrapped[0]]
    names = {str(name): value for name, value in inner.items()}
    while names:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


# PyTorch's floating-point numbers that NumPy has as well; bfloat16 and those of 8 bits it hasn't.
_OF_NUMPY = ("torch.float16", "torch.float32", "torch.float64")


def _to_numpy(value: Any) -> np.ndarray | None:
    """`value` as an array, or None where it is none."""
    if hasattr(value, "detach"):  # a PyTorch tensor
        tensor = value.detach().cpu()
        if not hasattr(tensor, "layout") or str(tensor.layout) != "torch.strided":
            return None
        if tensor.is_quantized:
            return None
        kind = str(tensor.dtype)
        if tensor.is_floating_point() and kind not in _OF_NUMPY:  # float32 holds it exactly
            tensor = tensor.float()
        return tensor.resolve_conj().resolve_neg().numpy()
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(value)
    return None


def as_arrays(source: Mapping[str, Any], *, origin: str = "the weights") -> dict[str, np.ndarray]:
    """Unwraps a mapping of names to PyTorch, NumPy or JAX arrays into NumPy arrays.

    Raises:
      CheckpointError: where it is empty, or an entry is not a dense array.
    """
    arrays, others = {}, []
    for name, value in unwrap(source).items():
        array = _to_numpy(value)
        if array is None:
            others.append(f"{name} ({type(value).__name__})")
        else:
            arrays[name] = array
    if others or not arrays:
        found = f"entries that are not dense arrays: {', '.join(others[:8])}" if others else "empty"
        raise CheckpointError(
            f"{origin}: not a state dict of names and arrays ({found}). Save the network's "
            f"state_dict(), alone or under one of the names {', '.join(_WRAPPERS)}."
        )
    return arrays


def read_checkpoint(
    path: str | os.PathLike[str], *, largest: int = LARGEST_CHECKPOINT
) -> dict[str, np.ndarray]:
    """Reads names and arrays from a file, unwrapped, without executing anything in it.

    Args:
      path: a .safetensors file, or a .pth, .pth.tar, .pt, .ckpt or .bin file (needs PyTorch 2.6).
      largest: the most bytes that it may take in memory, which its headers tell.

    Raises:
      CheckpointError: where there is no such file, for one of another kind, a damaged one, one
        that would run code, holds no weights or takes more than `largest`, and where PyTorch is
        needed and not installed.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: is a directory; give the checkpoint file in it.")
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: no such file.")
    if path.name.lower().endswith(".safetensors"):
        return as_arrays(read_safetensors(path, largest), origin=str(path))
    if path.name.lower().endswith(_PICKLED):
        content = _read_pickled(path, largest)
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{path}: holds a {type(content).__name__}, not a state dict of names and arrays."
            )
        return as_arrays(content, origin=str(path))
    raise CheckpointError(f"{path}: not a checkpoint by its name; known: {', '.join(_READABLE)}.")


def noted_options(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]] | None:
    """Class and options of the network, where `write_torch_file` noted them beside its weights.

    Of a file that `read_checkpoint` has read, which checks it.
    """
    path = Path(path)
    noted: Mapping[str, Any] = {}
    if path.name.lower().endswith(".safetensors"):
        with safe_open(path, "np") as file:
            noted = file.metadata() or {}
    elif path.name.lower().endswith(_PICKLED):
        # On the device "meta" tensors take no memory.
        content = _import_torch(path).load(path, map_location="meta", weights_only=True)
        noted = content if isinstance(content, Mapping) else {}
    options = noted.get("options")
    with contextlib.suppress(ValueError, RecursionError):
        options = json.loads(options) if isinstance(options, str) else options
    if not isinstance(options, dict) or not isinstance(noted.get("architecture"), str):
        return None
    return noted["architecture"], options


def _to_tensor(torch: Any, array: np.ndarray) -> Any:
    if array.dtype.name == "bfloat16":  # which PyTorch doesn't know of NumPy
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def write_checkpoint(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    *,
    layout: str = "pt",
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes names and arrays to a .safetensors file, or (with PyTorch) a .pth or .pt file.

    A file that exists is replaced whole, once the new one is complete.

    Args:
      path: the file.
      arrays: by their names.
      layout: noted in a .safetensors file as its format: "pt" for PyTorch's names and shapes,
        "flax" for Flax's.
      about: what is noted besides, texts or what JSON can hold. A .safetensors file has it as
        metadata, a .pth or .pt file as {"params": arrays, **about}; without it, that holds the
        arrays alone.

    Raises:
      CheckpointError: for another ending, or where PyTorch is needed and not installed.
      StorageError: where the file can't be written.
    """
    path = Path(path)
    ending = path.name.lower()
    if ending.endswith(".safetensors"):
        contiguous = {name: np.array(a, order="C") for name, a in arrays.items()}
        noted = {k: v if isinstance(v, str) else json.dumps(v) for k, v in (about or {}).items()}
        # Not save_file, which makes files that only their owner can read.
        write_whole(path, save(contiguous, metadata={"format": layout, **noted}))
    elif ending.endswith((".pth", ".pt")):
        torch = _import_torch(path)
        tensors = {name: _to_tensor(torch, np.array(a)) for name, a in arrays.items()}
        content = tensors if about is None else {"params": tensors, **about}
        write_whole(path, lambda file: torch.save(content, file))
    else:
        raise CheckpointError(f"{path}: can write .safetensors, .pth and .pt only.")
