"""Pictures split by rows over several devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sa_flax.errors import InputError


class Rows:
    """So many of this process's devices, each with its share of a picture's rows.

    Args:
      devices: how many.
      stride: what a share's height has to be a multiple of.

    Attributes:
      sharding: of pictures (B, H, W, C).
      multiple: what a picture's height has to be a multiple of.

    Raises:
      InputError: where there are not so many devices.
    """

    def __init__(self, devices: int, stride: int):
        available = jax.local_devices()
        if not 1 <= devices <= len(available):
            raise InputError(
                f"can't split pictures over {devices} devices: this process has {len(available)} "
                f"({available[0].device_kind})."
            )
        mesh = jax.make_mesh(
            (devices,), ("height",), axis_types=(AxisType.Auto,), devices=available[:devices]
        )
        self.sharding = NamedSharding(mesh, PartitionSpec(None, "height"))
        self.multiple = devices * stride

    def everywhere(self, state: Any) -> Any:
        """`state` on every device."""
        return jax.device_put(state, NamedSharding(self.sharding.mesh, PartitionSpec()))

    def run(self, forward: Callable[[jax.Array], jax.Array], x: np.ndarray) -> np.ndarray:
        """(H, W, C) through `forward`, which takes (1, H, W, C); continued by its mirror image."""
        missing = -len(x) % self.multiple
        padded = np.pad(x, ((0, missing), (0, 0), (0, 0)), mode="symmetric")[None]
        return np.asarray(forward(jax.device_put(padded, self.sharding)))[0, : len(x)]
