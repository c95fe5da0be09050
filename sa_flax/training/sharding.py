"""Devices: one mesh over all of them, batches split along it, the state on every device.

`jit` over a mesh is what `pmap` has become: the compiler inserts the sums over devices.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sa_flax.errors import InputError


def data_mesh() -> Mesh:
    """A mesh with one axis, "data", over all devices."""
    # With explicit axes (JAX's default) the gradient of a convolution's kernel does not compile.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises InputError where the batch can't be split evenly over the mesh."""
    if batch_size % mesh.size:
        raise InputError(
            f"--data.batch-size {batch_size} can't be split over {mesh.size} devices; use a "
            f"multiple of {mesh.size}."
        )


def place_batch(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """This process's share of a batch, as its part of one global array split along "data"."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Every leaf, whole, on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
