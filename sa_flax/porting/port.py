"""A PyTorch checkpoint as a saved network."""

import os
from pathlib import Path
from typing import Any

from flax import nnx

from sa_flax.errors import InputError
from sa_flax.limits import LARGEST_CHECKPOINT
from sa_flax.models.dncnn import DnCNN, fold_batch_norm
from sa_flax.models.registry import model_class
from sa_flax.models.saved import save_pretrained
from sa_flax.porting.checkpoints import noted_options, read_checkpoint, write_checkpoint
from sa_flax.porting.convert import build_from_torch, to_torch


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
      InputError, StorageError: as `porting.from_torch` and `save_pretrained`.
    """
    model_class(architecture)  # before a large file is read for an unknown name
    weights = read_checkpoint(source, largest=largest)
    noted = noted_options(source)
    model, chosen = build_from_torch(architecture, weights, options, noted=noted)
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
