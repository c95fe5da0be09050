"""A picture on a larger canvas, or in parts, computed as if it were alone and whole.

A compiled function takes one size. `on_canvas` lets pictures of any size go through it: the picture
lies in the upper left corner of a canvas, and whoever looks beyond a pixel must see what they would
see at the picture's end. Convolutions that pad (`sa_flax.modules.blocks.Conv`) put zeros there, by
`blank_beside`; `sa_flax.functional.statistics` counts the picture's own pixels alone.

For pictures in parts, statistics of the whole are taken once (`Canvas.noted`) and used for every
part (`Canvas.given`).

Both hold while a function is traced, on one thread. Nothing is changed where no canvas is set.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass
class Canvas:
    """What a traced function knows of the canvas that its maps lie on.

    Attributes:
      height, width: of the canvas, in pixels of the picture.
      valid: (height, width) of the picture on it, two integers, known when it runs.
      noted: gets the statistics that attention takes, in their order.
      given: statistics to use in place of the canvas' own; None to compute them.
      over_batch: take statistics over the whole batch, whose entries are parts of one picture.
    """

    height: int
    width: int
    valid: Array
    noted: list[Array] = dataclasses.field(default_factory=list)
    given: Iterator[Array] | None = None
    over_batch: bool = False


_current: contextvars.ContextVar[Canvas | None] = contextvars.ContextVar("canvas", default=None)


@contextlib.contextmanager
def on_canvas(canvas: Canvas) -> Iterator[Canvas]:
    """What is traced inside takes its maps for pictures on `canvas`."""
    token = _current.set(canvas)
    try:
        yield canvas
    finally:
        _current.reset(token)


def current_canvas() -> Canvas | None:
    """The canvas that maps lie on, None where they are whole pictures."""
    return _current.get()


def inside(x: Float[Array, "... H W C"]) -> Bool[Array, "H W 1"] | None:
    """Where a map lies inside the picture; None where there is no canvas.

    The map may be coarser than the picture, by a whole factor.
    """
    canvas = _current.get()
    if canvas is None:
        return None
    rows = _ends_before(canvas.height, x.shape[-3], canvas.valid[0])
    columns = _ends_before(canvas.width, x.shape[-2], canvas.valid[1])
    return (rows[:, None] & columns[None, :])[..., None]


def _ends_before(canvas: int, length: int, valid: Array) -> Bool[Array, " N"]:
    return jnp.arange(length, dtype=jnp.int32) < _inside_of(canvas, length, valid)


def _inside_of(canvas: int, length: int, valid: Array) -> Int[Array, ""]:
    """How many of `length` rows or columns of a map lie inside the picture."""
    if canvas % length:
        raise ValueError(f"a map of {length} does not divide a canvas of {canvas} pixels.")
    factor = canvas // length
    return (valid + factor - 1) // factor


def blank_beside(x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
    """x with zeros in the row below the picture and the column to its right, where they are.

    What a 3 x 3 convolution needs: nothing inside the picture sees further. Unlike `blank_outside`
    it is no pass over the whole map.
    """
    canvas = _current.get()
    if canvas is None:
        return x
    for axis, size, valid in ((-3, canvas.height, 0), (-2, canvas.width, 1)):
        length = x.shape[axis]
        first = _inside_of(size, length, canvas.valid[valid])
        at = jnp.minimum(first, length - 1)
        there = jax.lax.dynamic_slice_in_dim(x, at, 1, axis)
        line = jnp.where(first < length, jnp.zeros((), x.dtype), there)
        x = jax.lax.dynamic_update_slice_in_dim(x, line, at, axis)
    return x


def blank_outside(x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
    """x with zeros outside of the picture; x itself where there is no canvas."""
    mask = inside(x)
    if mask is None:
        return x
    return jnp.where(mask.reshape((1,) * (x.ndim - 3) + mask.shape), x, jnp.zeros((), x.dtype))


def statistic(compute, x: Float[Array, "... H W C"]) -> Array:
    """A statistic of a map on a canvas: the given one, or `compute(mask, axes)`, which is noted.

    `mask` has x's rank and is true inside the picture; `axes` are those to reduce, kept as 1.
    """
    canvas, mask = _current.get(), inside(x)
    assert canvas is not None
    assert mask is not None
    if canvas.given is not None:
        return next(canvas.given)
    axes: tuple[int, ...] = (-3, -2)
    if canvas.over_batch:
        axes = tuple(range(-x.ndim, -1))
    value = compute(mask.reshape((1,) * (x.ndim - 3) + mask.shape), axes)
    canvas.noted.append(value)
    return value


def masked_mean(x: Array, mask: Bool[Array, "... H W 1"], axes: tuple[int, ...]) -> Array:
    """Mean of x over `axes` where the mask is true."""
    ones = jnp.broadcast_to(mask, (*x.shape[:-1], 1))
    count = jnp.sum(ones, axis=axes, keepdims=True, dtype=x.dtype)
    return jnp.sum(jnp.where(mask, x, 0), axis=axes, keepdims=True) / count


def masked_max(x: Array, mask: Bool[Array, "... H W 1"], axes: tuple[int, ...]) -> Array:
    """Maximum of x over `axes` where the mask is true."""
    return jnp.max(jnp.where(mask, x, -jnp.inf), axis=axes, keepdims=True).astype(x.dtype)


def first_pixel(x: Float[Array, "... H W C"], axes: tuple[int, ...]) -> Array:
    """One value of each channel, of the first pixel along `axes`: always inside the picture."""
    for axis in axes:
        x = jax.lax.slice_in_dim(x, 0, 1, axis=axis % x.ndim)
    return jax.lax.stop_gradient(x)
