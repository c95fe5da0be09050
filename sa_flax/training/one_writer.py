"""Checkpoints of several processes that share no folder: process 0 writes them, whole.

Orbax has every process write its part into one folder. Where there is none, the state is gathered
in process 0, array by array, and given to the others when a run goes on. That costs the memory of
one array more on a device, and the whole state in process 0's; the files are the usual ones, so
that any number of processes goes on from them.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding

from sa_flax.training import processes, sharding
from sa_flax.training.checkpoint import Checkpoints
from sa_flax.training.state import TrainState


class OneWriter:
    """As `Checkpoints`, in a folder that process 0 alone sees. All processes call its methods."""

    def __init__(self, run: Path, *, keep: int = 2):
        self._own = Checkpoints(run, keep=keep, alone=True) if processes.is_first() else None

    def save(self, state: TrainState, step: int, *, psnr: float | None = None) -> bool:
        """As `Checkpoints.save`. What process 0 raises, all do."""
        own = self._own
        if not processes.tell_all("" if own is None or own.has(step) else "new"):
            return False
        whole = jax.tree.map(_gathered, state)
        processes.first(lambda: own is not None and own.save(whole, step, psnr=psnr))
        return True

    def restore(self, like: TrainState) -> tuple[TrainState, int, list[str]] | None:
        """As `Checkpoints.restore`; the list of broken ones is process 0's."""
        own, here = self._own, SingleDeviceSharding(jax.local_devices()[0])
        on_one = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like
        )
        found = processes.first(lambda: None if own is None else own.restore(on_one))
        step = processes.tell_all("" if found is None else str(found[1]))
        if not step:
            return None
        state = jax.tree.map(_spread, like if found is None else found[0], like)
        return state, int(step), [] if found is None else found[2]

    def close(self) -> None:
        """As `Checkpoints.close`."""
        if self._own is not None:
            self._own.close()


def _gathered(leaf: jax.Array) -> np.ndarray | None:
    """The whole array in process 0, nothing in the others."""
    whole = sharding.on_one_device(leaf)
    return np.asarray(whole) if processes.is_first() else None


def _spread(leaf: Any, like: jax.Array) -> jax.Array:
    """Process 0's array, laid out as `like` over all."""
    shape, dtype = like.shape, like.dtype
    # As bytes: sums over processes keep every bit of those, and lose that of a negative zero.
    mine = np.asarray(leaf) if processes.is_first() else np.zeros(shape, dtype)
    told = multihost_utils.broadcast_one_to_all(np.ascontiguousarray(mine).reshape(-1).view("u1"))
    whole = np.asarray(told).astype(np.uint8).view(dtype).reshape(shape)
    return jax.make_array_from_callback(shape, like.sharding, lambda index: whole[index])
