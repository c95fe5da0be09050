"""How arrays lie beside each other: vectors along the channels, maps over a mesh of devices."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float


def per_channel(vector: Float[Array, " C"], rank: int) -> Float[Array, "... C"]:
    """A vector as an array of `rank` axes that broadcasts along the last one.

    JAX would add the axes by itself, but not where `jax_numpy_rank_promotion` forbids it.
    """
    return vector.reshape((1,) * (rank - 1) + (-1,))


def is_over_explicit_axes(x: Array) -> bool:
    """Whether some axis of x is split over an axis of a mesh whose type is explicit."""
    return any(axes is not None for axes in jax.typeof(x).sharding.spec)


def over_mesh(function: Callable[..., Any], x: Array, *args: Any, like_x: bool = True) -> Any:
    """`function(x, *args)`, where need be with the mesh's explicit axes automatic inside.

    Over explicit axes JAX wants every slice, reshape and product to say how its result lies. Which
    is how x lies: so the compiler may choose inside, and the result gets x's sharding.

    Args:
      function: a function of arrays.
      x, *args: its arguments, trees of arrays.
      like_x: the result has x's shape, and gets its sharding; False leaves the result whole on
        every device.
    """
    meshes = {
        jax.typeof(leaf).sharding.mesh
        for leaf in jax.tree.leaves((x, args))
        if is_over_explicit_axes(leaf)
    }
    if not meshes:
        return function(x, *args)
    spec = jax.typeof(x).sharding.spec if like_x else jax.sharding.PartitionSpec()
    out = jax.sharding.NamedSharding(meshes.pop(), spec)
    return jax.sharding.auto_axes(function, out_sharding=out)(x, *args)
