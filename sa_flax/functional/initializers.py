"""How kernels start: normal numbers, drawn in pieces of one size by one compiled function.

JAX's own initialisers compile anew for every shape, which for the shapes of a U-Net takes longer
than the drawing. Here every array takes as much as it needs of an endless row of numbers that its
key begins, so that one compilation serves all shapes, and the same key gives the same numbers on
every device (to rounding, also where the drawing is part of a larger jitted function).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[[Any, tuple[int, ...], Any], Any]
Distribution = Literal["truncated_normal", "normal"]

_PIECE = 2**14
# The standard deviation of a standard normal distribution that is cut at -2 and 2.
_CUT_DEVIATION = 0.87962566103423978


@functools.partial(jax.jit, static_argnames="distribution")
def _piece(key: Any, number: Any, distribution: Distribution) -> jax.Array:
    """One piece of the row of numbers that `key` begins; their standard deviation is 1."""
    key = jax.random.fold_in(key, number)
    if distribution == "normal":
        return jax.random.normal(key, (_PIECE,), jnp.float32)
    cut = jax.random.truncated_normal(key, -2.0, 2.0, (_PIECE,), jnp.float32)
    return cut / np.float32(_CUT_DEVIATION)


def variance_scaling(
    scale: float, mode: Literal["fan_in", "fan_out"], distribution: Distribution
) -> Initializer:
    """An initialiser with variance `scale / fan`, as `jax.nn.initializers.variance_scaling`.

    The distribution, and what counts as an input and an output, are the same; the numbers are not.
    They are drawn in float32 whatever the dtype asked for.

    Args:
      scale: the variance times the fan.
      mode: which fan: the inputs that an output is summed from, or the outputs an input goes to.
      distribution: "truncated_normal" (cut at two standard deviations), or "normal".

    Returns:
      A function of (key, shape, dtype). It raises ValueError for shapes of fewer than two axes: the
      last are inputs and outputs.
    """

    def initialise(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        if len(shape) < 2:
            raise ValueError(
                f"a kernel has at least two axes, the last two for inputs and outputs; got {shape}."
            )
        places = math.prod(shape[:-2])
        fan = places * (shape[-2] if mode == "fan_in" else shape[-1])
        deviation = math.sqrt(scale / max(fan, 1))
        size = math.prod(shape)
        count = -(-size // _PIECE)
        first = _piece(key, 0, distribution)
        if isinstance(first, jax.core.Tracer):
            drawn = jax.lax.map(lambda n: _piece(key, n, distribution), jnp.arange(count))
            row = drawn.reshape(-1)[:size]
            return (row.reshape(shape) * np.float32(deviation)).astype(dtype)
        # On the host: slices and products compile for every shape, too.
        rest = (_piece(key, number, distribution) for number in range(1, count))
        row = np.concatenate([first, *rest])[:size]
        return _whole((row * np.float32(deviation)).reshape(shape), dtype)

    return initialise


lecun_normal = variance_scaling(1.0, "fan_in", "truncated_normal")
he_normal = variance_scaling(2.0, "fan_in", "truncated_normal")


def filled(shape: tuple[int, ...], value: float, dtype: Any) -> jax.Array:
    """`jnp.full`, which compiles for every shape."""
    return _whole(np.full(shape, value, np.float32), dtype)


def zeros(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """The initialiser of biases."""
    del key
    return filled(shape, 0.0, dtype)


def _whole(array: np.ndarray, dtype: Any) -> jax.Array:
    return jax.device_put(array.astype(jnp.dtype(dtype)))  # unlike jnp.asarray, compiles nothing
