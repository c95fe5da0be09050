"""Checkpoints by Orbax: state, moving average, data position and best PSNR, in one atomic step.

A checkpoint is written beside the others under a temporary name and renamed when it is whole, so
a run that dies while saving leaves the older ones as they were. The newest valid one wins.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from sa_flax.inference.run_directory import CHECKPOINTS, Progress, newest_valid
from sa_flax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, in its folder `checkpoints`.

    Args:
      run: the run's directory.
      keep: how many of the newest are kept; the one with the best PSNR is kept besides.
    """

    def __init__(self, run: Path, *, keep: int = 2):
        # Orbax reports every deletion and thread at level INFO and some at WARNING.
        logging.getLogger("absl").setLevel(logging.ERROR)
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
        self._manager = ocp.CheckpointManager(
            (run / CHECKPOINTS).resolve(),
            item_names=("state", "ema", "progress"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, state: TrainState, progress: Progress, *, psnr: float | None = None) -> None:
        """Saves, unless this step is saved already. `psnr`: validation PSNR at this very step."""
        if progress.step in self._manager.all_steps():
            return
        self._manager.save(
            progress.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_without_ema(state)),
                ema=ocp.args.StandardSave({"params": state.ema, "rest": state.rest}),
                progress=ocp.args.JsonSave(progress._asdict()),
            ),
            metrics=None if psnr is None else {"psnr": psnr},
        )
        self._manager.wait_until_finished()

    def restore(self, like: TrainState) -> tuple[TrainState, Progress, list[str]] | None:
        """The newest valid checkpoint, placed as `like` is, or None where there is none.

        The list names newer checkpoints that could not be read. They are moved aside, so that
        they can be saved anew.

        Raises:
          InputError: where there are checkpoints, but none can be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_without_ema(abstract)),
            ema=ocp.args.StandardRestore({"params": abstract.ema, "rest": abstract.rest}),
            progress=ocp.args.JsonRestore(),
        )
        broken: list[str] = []
        for step, restored in newest_valid(self._manager, args, broken):
            for name in broken:
                self._set_aside(name)
            state = TrainState(**restored["state"], ema=restored["ema"]["params"])
            progress = Progress(**restored["progress"])
            assert progress.step == step
            return state, progress, broken
        return None

    def _set_aside(self, name: str) -> None:
        path = Path(self._manager.directory) / name.split(":")[0]
        path.rename(path.with_name(f"broken-{path.name}"))
        self._manager.reload()

    def close(self) -> None:
        """Waits for what is being written and lets go of Orbax's threads."""
        self._manager.close()


def _without_ema(state: TrainState) -> dict[str, Any]:
    """The average is an item of its own in a checkpoint, so that inference reads it alone."""
    return {name: value for name, value in state._asdict().items() if name != "ema"}
