"""Spatial statistics of every channel: mean, variance and maximum, over the whole map or a window.

All pooled attentions take their statistics from here, so that what "global" means is decided once.

With `window=(h, w)` every pixel has statistics of its own, taken over the h x w pixels around it: a
network trained on small crops then sees, on a whole photograph, statistics of the kind that it was
trained on. Near an edge the window stays whole and inside the map, so it is no longer centred: no
padding enters, and every statistic is over exactly h w pixels. A window that covers the map gives
the statistics of the map, bit for bit. Chu et al., "Improving Image Restoration by Revisiting
Global Information Aggregation", ECCV 2022, https://arxiv.org/abs/2112.04491.

Windows are computed along one axis and then the other, from the statistics of 1, 2, 4, 8, ...
pixels that are put together to the size wanted. That takes 2 log2(size) additions a pixel whatever
the map, and none of the large sums whose differences a summed-area table takes: the error in
float32 is that of the window, not of the picture. Memory is at most nine maps for moments, two for
means.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional import canvas
from sa_flax.functional.checks import check_map, is_whole

Window = tuple[int, int] | None
WindowLike = Window | list[int]  # as it comes from JSON, too
_Statistics = TypeVar("_Statistics")


def statistics_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """What statistics of a `dtype` map are computed in: float32, or float64 for float64."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def widened(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x in its statistics' dtype."""
    return x.astype(statistics_dtype(x.dtype))


def params_for(x: Any, params: Any) -> Any:
    """Parameters (a tree of arrays) in the dtype that x's statistics are in."""
    dtype = statistics_dtype(x.dtype)
    return jax.tree.map(lambda array: jnp.asarray(array, dtype), params)


def check_window(window: Any) -> Window:
    """`window` as None or a tuple; a list, as JSON has it, is taken too.

    Raises:
      ValueError: unless it is None or two positive integers.
    """
    if window is None:
        return None
    if (
        not isinstance(window, tuple | list)
        or len(window) != 2
        or any(not is_whole(size) or size < 1 for size in window)
    ):
        raise ValueError(
            f"window must be None, for statistics of the whole map, or the (height, width) of the "
            f"window around each pixel, two integers of at least 1; got {window!r}."
        )
    return (int(window[0]), int(window[1]))


def _slide(
    statistics: _Statistics,
    size: int,
    axis: int,
    merge: Callable[[_Statistics, int, _Statistics, int], _Statistics],
) -> _Statistics:
    """Statistics of every run of `size` entries along `axis`, from those of single entries.

    `merge(a, m, b, n)` gives the statistics of m entries with statistics a and of n others with b.
    Runs of 1, 2, 4, ... entries are doubled, and the runs that `size` is a sum of are joined.
    """
    length = jax.tree.leaves(statistics)[0].shape[axis]

    def cut(tree, start, stop):
        return jax.tree.map(lambda x: jax.lax.slice_in_dim(x, start, stop, axis=axis), tree)

    # `joined` covers `done` entries, `run` covers `span`; the n-th of each begins at entry n.
    joined, done = statistics, 0
    run, span = statistics, 1
    while True:
        if size & span:
            ends = length - done - span + 1
            joined = (
                run
                if not done
                else merge(cut(joined, 0, ends), done, cut(run, done, done + ends), span)
            )
            done += span
        if done == size:
            return joined
        ends = length - 2 * span + 1
        run = merge(cut(run, 0, ends), span, cut(run, span, span + ends), span)
        span *= 2


def _windowed(statistics, window: tuple[int, int], merge):
    """Statistics of each pixel's window, from those of single pixels; height and width stay."""
    for size, axis in zip(window, (-3, -2), strict=True):
        leaf = jax.tree.leaves(statistics)[0]
        axis = leaf.ndim + axis
        size = min(size, leaf.shape[axis])
        # Pixels near an edge share the outermost window that is wholly inside.
        pad = [(0, 0)] * leaf.ndim
        pad[axis] = ((size - 1) // 2, size // 2)
        statistics = jax.tree.map(
            lambda x, pad=pad: jnp.pad(x, pad, mode="edge"), _slide(statistics, size, axis, merge)
        )
    return statistics


def _merge_sums(a, m, b, n):
    return a + b


def _merge_maxima(a, m, b, n):
    return jnp.maximum(a, b)


def _merge_moments(a, m, b, n):
    """Mean and variance of two sets together (Chan, Golub and LeVeque, 1979): no cancellation."""
    (mean_a, variance_a), (mean_b, variance_b) = a, b
    share = n / (m + n)
    step = mean_b - mean_a
    within = variance_a + share * (variance_b - variance_a)
    return mean_a + share * step, within + share * (1 - share) * jnp.square(step)


def covers(window: Window, x: jax.Array) -> bool:
    """Whether statistics of x over `window` are those of the whole map (as with None)."""
    window = check_window(window)
    return window is None or (window[0] >= x.shape[-3] and window[1] >= x.shape[-2])


def _pivot(x: Float[Array, "*B H W C"]) -> Float[Array, "*B 1 1 C"]:
    """One value of each channel. `x - pivot` is exact where a channel hardly varies."""
    return jax.lax.stop_gradient(x[..., :1, :1, :])


def _mean_on_canvas(x: Array, mask: Array, axes: tuple[int, ...]) -> Array:
    pivot = canvas.first_pixel(x, axes)
    return pivot + canvas.masked_mean(x - pivot, mask, axes)


def _centred_and_variance_on_canvas(x: Array) -> tuple[Array, Array]:
    """As `centred_and_variance`. Pivot and mean are noted apart, for their sum is rounded."""
    pivot = canvas.statistic(lambda mask, axes: canvas.first_pixel(x, axes), x)
    shifted = x - pivot
    mean = canvas.statistic(lambda mask, axes: canvas.masked_mean(shifted, mask, axes), x)
    centred = shifted - mean
    variance = canvas.statistic(
        lambda mask, axes: canvas.masked_mean(jnp.square(centred), mask, axes), x
    )
    return centred, variance


def spatial_mean(
    x: Float[Array, "*B H W C"], *, window: Window = None
) -> Float[Array, "... #H #W C"]:
    """Mean over height and width, or over the window around each pixel, in float32 or better.

    Equivalent to `x.mean((-3, -2), keepdims=True)`, but summed about one value of the channel, so
    that the spread of a channel survives a mean thousands of times as large. The result is
    (..., 1, 1, C), or (..., H, W, C) where there is a window smaller than the map.
    """
    x = widened(check_map("spatial_mean", x))
    if window is None and canvas.current_canvas() is not None:
        return canvas.statistic(lambda mask, axes: _mean_on_canvas(x, mask, axes), x)
    pivot = _pivot(x)
    if covers(window, x):
        return pivot + jnp.mean(x - pivot, axis=(-3, -2), keepdims=True)
    assert window is not None
    pixels = min(window[0], x.shape[-3]) * min(window[1], x.shape[-2])
    return pivot + _windowed(x - pivot, window, _merge_sums) / pixels


def spatial_max(
    x: Float[Array, "*B H W C"], *, window: Window = None
) -> Float[Array, "... #H #W C"]:
    """Maximum over height and width, or over the window around each pixel, in x's dtype.

    The gradient of a maximum that several pixels reach is shared among them.
    """
    x = check_map("spatial_max", x)
    if window is None and canvas.current_canvas() is not None:
        return canvas.statistic(lambda mask, axes: canvas.masked_max(x, mask, axes), x)
    if covers(window, x):
        return jnp.max(x, axis=(-3, -2), keepdims=True)
    assert window is not None
    return _windowed(x, window, _merge_maxima)


def centred_and_variance(
    x: Float[Array, "*B H W C"], *, window: Window = None
) -> tuple[Float[Array, "*B H W C"], Float[Array, "... #H #W C"]]:
    """`x` less its spatial mean, and its (biased) spatial variance, in float32 or better.

    Mean and variance are over the whole map, or over the window around each pixel. Both are taken
    about the mean (two passes, or merged moments): mean 1000 with standard deviation 0.01 keeps its
    signal in float32, where E[x^2] - E[x]^2 returns noise.
    """
    x = widened(check_map("centred_and_variance", x))
    if window is None and canvas.current_canvas() is not None:
        return _centred_and_variance_on_canvas(x)
    shifted = x - _pivot(x)
    if covers(window, x):
        centred = shifted - jnp.mean(shifted, axis=(-3, -2), keepdims=True)
        return centred, jnp.mean(jnp.square(centred), axis=(-3, -2), keepdims=True)
    assert window is not None
    mean, variance = _windowed((shifted, jnp.zeros_like(shifted)), window, _merge_moments)
    return shifted - mean, variance
