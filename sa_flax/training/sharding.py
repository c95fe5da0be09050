"""Devices: one mesh over all of them, and what lies where on it.

The mesh has three axes. The batch is split over "data" and "fsdp"; parameters, their average and
the optimiser's moments are split over "fsdp", and copied along the others; the height of pictures
is split over "height". `jit` over a mesh is what `pmap` has become: the compiler puts in the sums
over devices, the gathering of parameters and the exchange of rows at the edges of a convolution.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sa_flax.config import Config, MeshConfig
from sa_flax.errors import InputError


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh ("data", "fsdp", "height"), over all devices of all processes unless some are given.

    Raises:
      InputError: where the number of devices is no multiple of fsdp * height, or the devices of
        one process can't hold whole pictures.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) % (config.fsdp * config.height):
        raise InputError(
            f"--mesh.fsdp {config.fsdp} x --mesh.height {config.height} does not divide the number "
            f"of devices, {len(devices)}."
        )
    local = len({d for d in devices if d.process_index == jax.process_index()})
    if local % config.height:
        raise InputError(
            f"--mesh.height {config.height} does not divide the {local} devices of each process: a "
            "picture is split over the devices of one process."
        )
    shape = (len(devices) // (config.fsdp * config.height), config.fsdp, config.height)
    # With explicit axes (JAX's default) the gradient of a convolution's kernel does not compile.
    return jax.make_mesh(
        shape, ("data", "fsdp", "height"), axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def check_batch(config: Config, mesh: Mesh) -> None:
    """Raises InputError where batches or crops can't be split evenly over the mesh."""
    parts = config.optimizer.accumulate * mesh.shape["data"] * mesh.shape["fsdp"]
    if config.data.batch_size % parts:
        raise InputError(
            f"--data.batch-size {config.data.batch_size} can't be split over {mesh.size} devices"
            + (
                f" in --optimizer.accumulate {config.optimizer.accumulate} parts"
                if config.optimizer.accumulate > 1
                else ""
            )
            + f"; use a multiple of {parts}."
        )
    if config.data.crop % mesh.shape["height"]:
        raise InputError(
            f"--data.crop {config.data.crop} can't be split over --mesh.height "
            f"{mesh.shape['height']} devices; use a multiple of it."
        )


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch, arrays (B, H, W, C), as its part of global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch (B, H, W, C) lies."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "height"))


def layout(tree: Any, mesh: Mesh) -> Any:
    """Where each array of a state rests: split over "fsdp" along its longest axis that divides.

    Of equally long axes the last; an array with no such axis is whole on every device.
    """

    def of(array: jax.Array) -> NamedSharding:
        parts = mesh.shape["fsdp"]
        axes = [a for a, size in enumerate(array.shape) if parts > 1 and size % parts == 0]
        if not axes:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda a: (array.shape[a], a))
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(of, tree)


def place(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a state, the same in every process, moved to where they rest."""

    def put(array: jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, layout(tree, mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole, on every device."""
    return NamedSharding(mesh, PartitionSpec())


def on_one_device(tree: Any) -> Any:
    """The arrays of a state, whole, on this process's first device.

    Every process must call this: what is split is gathered first.
    """

    def take(array: jax.Array) -> jax.Array:
        if not array.is_fully_replicated:
            assert isinstance(array.sharding, NamedSharding)
            whole = NamedSharding(array.sharding.mesh, PartitionSpec())
            array = jax.jit(lambda x: x, out_shardings=whole)(array)
        return array.addressable_data(0)

    return jax.tree.map(take, tree)
