"""Weights from PyTorch, and back: strict in both directions.

`torch_unet.py`, which nothing here imports, is the attention U-Net for PyTorch projects to copy.
"""

from sa_flax.errors import CheckpointError, PortingError
from sa_flax.models.dncnn import fold_batch_norm
from sa_flax.porting.attention_rules import UnknownWeightsError
from sa_flax.porting.checkpoints import read_checkpoint, write_checkpoint
from sa_flax.porting.convert import from_torch, load_torch, to_torch

__all__ = [
    "CheckpointError",
    "PortingError",
    "UnknownWeightsError",
    "fold_batch_norm",
    "from_torch",
    "load_torch",
    "read_checkpoint",
    "to_torch",
    "write_checkpoint",
]
