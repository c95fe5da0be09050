"""Reading what a training run left in its directory: configuration, checkpoints, moving average."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from flax import nnx

from sa_flax.config import Config, from_json, validate
from sa_flax.errors import InputError
from sa_flax.files import write_whole

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
CHECKSUMS = "checksums.json"


class Progress(NamedTuple):
    """What a checkpoint knows of the run besides its arrays.

    Attributes:
      step: training steps done.
      batches: batches taken from the data; the next one continues exactly.
      best_psnr: highest validation PSNR so far, in dB; None before the first evaluation.
    """

    step: int
    batches: int
    best_psnr: float | None


def read_config(run: Path) -> Config:
    """The configuration of a run.

    Raises:
      InputError: where `run` is not a run's directory, or its configuration is damaged.
    """
    path = run / CONFIG
    if not os.path.isfile(path):
        raise InputError(
            f"{run} is not the directory of a training run (it has no {CONFIG}). "
            "`python train.py` makes one: runs/quick."
        )
    try:
        config = from_json(path.read_text(encoding="utf-8"))
        validate(config)
    except (InputError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path}: {error}\nThe file is damaged, or of another version of sa_flax."
        ) from error
    return config


def restore_ema(run: Path, params: nnx.State, rest: nnx.State) -> tuple[nnx.State, nnx.State]:
    """Parameters (moving average) and other variables of the newest valid checkpoint of a run.

    Args:
      run: the run's directory.
      params, rest: trainable parameters and other variables, as arrays or shapes.

    Raises:
      InputError: where `run` holds no checkpoint, or none that can be read.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    folder = (run / CHECKPOINTS).resolve()
    if not folder.is_dir():
        raise InputError(
            f"{run} holds no checkpoints. Give the directory of a training run (with a folder "
            "'checkpoints' in it), for example runs/quick."
        )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
        {"params": params, "rest": rest},
    )
    args = ocp.args.Composite(ema=ocp.args.StandardRestore(abstract))
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder, item_names=("ema",), options=options) as manager:
        for _, restored in newest_valid(manager, args, broken=[]):
            return restored["ema"]["params"], restored["ema"]["rest"]
    raise InputError(f"{run} holds no finished checkpoint yet: train a little longer.")


def newest_valid(
    manager: ocp.CheckpointManager,
    args: Any,
    broken: list[str],
    find_damage: Callable[[Path], str] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yields step and content of the newest checkpoint that is whole and can be read, if any.

    Args:
      manager: manages the folder of checkpoints.
      args: what to restore.
      broken: gets a line, "step: reason", for every newer checkpoint.
      find_damage: says what is wrong with a checkpoint's folder, or ""; by default `damage`.

    Raises:
      InputError: where there are checkpoints, but none is any good.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        damaged = (find_damage or damage)(Path(manager.directory) / str(step))
        if damaged:
            broken.append(f"{step}: {damaged}")
            continue
        try:
            yield step, manager.restore(step, args=args)
            return
        except Exception as error:  # tensorstore, JSON and file errors have no common class
            reason = str(error).strip().splitlines()
            broken.append(f"{step}: {reason[0][:200] if reason else type(error).__name__}")
    if steps:
        listing = "\n".join(f"  step {line}" for line in broken)
        raise InputError(
            f"none of the checkpoints in {manager.directory} can be read:\n{listing}\n"
            "Restore them from a backup, or train in another directory (--output)."
        )


def write_checksums(checkpoint: Path) -> None:
    """Notes the SHA-256 of every file of a finished checkpoint, in checksums.json beside them."""
    sums = {str(path.relative_to(checkpoint)): _sha256(path) for path in _files(checkpoint)}
    write_whole(checkpoint / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's files by their checksums; "" where nothing is.

    A checkpoint without checksums passes: its run was killed right after it was finished.
    """
    noted = checkpoint / CHECKSUMS
    if not noted.is_file():
        return ""
    try:
        sums = json.loads(noted.read_text())
        for name, expected in sums.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if _sha256(path) != expected:
                return f"{name} is not as it was written (its SHA-256 differs)"
    except (OSError, ValueError, AttributeError) as error:
        return f"{CHECKSUMS}: {error}"
    return ""


def _files(checkpoint: Path) -> Iterator[Path]:
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / CHECKSUMS:
            yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
