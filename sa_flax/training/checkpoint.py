"""Checkpoints by Orbax: state and moving average, in one atomic step.

A checkpoint is written beside the others under a temporary name and renamed when it is whole, so
a run that dies while saving leaves the older ones as they were. The newest valid one wins. All
processes of a run take part in saving and restoring.
"""

import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from sa_flax.errors import StorageError
from sa_flax.training import processes
from sa_flax.training.run_directory import (
    CHECKPOINTS,
    damage,
    newest_valid,
    write_checksums,
)
from sa_flax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, in its folder `checkpoints`.

    Args:
      run: the run's directory.
      keep: how many of the newest are kept; the one with the best PSNR is kept besides.
      alone: process 0 alone saves and restores, also where there are others. What it saves are
        NumPy arrays then.
    """

    def __init__(self, run: Path, *, keep: int = 2, alone: bool = False):
        # Orbax reports every deletion and thread at level INFO and some at WARNING; an ERROR, with
        # its traceback, it raises besides.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        policy = AnyPreservationPolicy(
            [
                LatestN(keep),
                BestN(
                    get_metric_fn=lambda metrics: metrics["psnr"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._alone = alone
        self._folder = (run / CHECKPOINTS).resolve()
        if alone:  # with a choice of processes Orbax makes no folder
            self._folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=("state", "ema"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=lambda metrics: metrics["psnr"],  # else metrics are not written
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                create=not alone,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    active_processes={0} if alone else None
                ),
            ),
        )

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of a step."""
        return step in self._manager.all_steps()

    def save(self, state: TrainState, step: int, *, psnr: float | None = None) -> bool:
        """Saves, unless this step is saved already; returns whether it did.

        `psnr` is the validation PSNR at this very step. The step is also the position in the data:
        every batch is a function of its number.

        Raises:
          StorageError: where it can't be written whole; older checkpoints are as they were.
        """
        if self.has(step):
            return False
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_ema(state)),
            ema=ocp.args.StandardSave({"params": state.ema, "rest": state.rest}),
        )
        # Infinity, the PSNR of equal pictures, is no JSON.
        metrics = None if psnr is None else {"psnr": min(psnr, 999.0)}
        self._require_room(state, step)
        try:
            self._manager.save(step, args=arguments, metrics=metrics)
            self._manager.wait_until_finished()
            if self._alone or processes.is_first():
                write_checksums(self._folder / str(step))
        except Exception as error:  # tensorstore, Orbax and the file system have no common class
            # What there is of it has a temporary name, and goes when the folder is next opened.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise self._not_saved(step, reason) from error
        return True

    def _require_room(self, state: TrainState, step: int) -> None:
        """Raises StorageError where the disk can't take this process's part of a checkpoint."""
        needed = 1.1 * sum(map(_bytes_here, jax.tree.leaves(state))) + 2**20
        if shutil.disk_usage(self._folder).free < needed:
            raise self._not_saved(step, f"it takes {needed / 2**20:.1f} MB")

    def _not_saved(self, step: int, reason: str) -> StorageError:
        free = shutil.disk_usage(self._folder).free / 2**20
        return StorageError(
            f"the checkpoint of step {step} could not be saved ({reason}; {free:.1f} MB are free "
            f"in {self._folder}). Older checkpoints are as they were. Make room, then run the same "
            "command again to go on from the newest."
        )

    def restore(self, like: TrainState) -> tuple[TrainState, int, list[str]] | None:
        """The newest valid checkpoint, placed as `like` is, and its step; None where there is none.

        The list names newer checkpoints that could not be read. They are moved aside, so that
        they can be saved anew.

        Raises:
          InputError: where there are checkpoints, but none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_without_ema(abstract)),
            ema=ocp.args.StandardRestore({"params": abstract.ema, "rest": abstract.rest}),
        )
        broken: list[str] = []
        for step, restored in newest_valid(
            self._manager, args, broken, damage if self._alone else _damage_for_all
        ):
            self._set_aside(broken)
            state = TrainState(**restored["state"], ema=restored["ema"]["params"])
            return state, step, broken
        return None

    def _set_aside(self, broken: list[str]) -> None:
        for line in broken if self._alone or processes.is_first() else ():
            step = line.split(":")[0]
            (self._folder / step).rename(_free_name(self._folder / f"broken-{step}"))
        if broken:
            if not self._alone:
                processes.wait_for_all("broken checkpoints set aside")
            self._manager.reload()

    def close(self) -> None:
        """Waits for what is being written and lets go of Orbax's threads."""
        self._manager.close()


def _without_ema(state: TrainState) -> dict[str, Any]:
    """The average is an item of its own in a checkpoint, so that inference reads it alone."""
    return {name: value for name, value in state._asdict().items() if name != "ema"}


def _bytes_here(leaf: Any) -> int:
    """What this process writes of an array."""
    if isinstance(leaf, np.ndarray):
        return leaf.nbytes
    return sum(s.data.nbytes for s in leaf.addressable_shards if s.replica_id == 0)


def _damage_for_all(checkpoint: Path) -> str:
    """What process 0 finds wrong with a checkpoint, in every process."""
    return processes.tell_all(damage(checkpoint) if processes.is_first() else "")


def _free_name(path: Path) -> Path:
    """`path`, or with the first number behind it under which there is nothing yet."""
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())
