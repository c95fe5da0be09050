"""Pictures split by rows over several devices."""

import jax
from jax.sharding import AxisType, Mesh

from sa_flax.errors import InputError


def mesh_of(devices: int) -> Mesh:
    """So many of this process's devices, one above the other: the axis "height".

    Raises:
      InputError: where there are not so many.
    """
    available = jax.local_devices()
    if not 1 <= devices <= len(available):
        raise InputError(
            f"can't split pictures over {devices} devices: this process has {len(available)} "
            f"({available[0].device_kind})."
        )
    return jax.make_mesh(
        (devices,), ("height",), axis_types=(AxisType.Auto,), devices=available[:devices]
    )
