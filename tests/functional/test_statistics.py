"""Statistics over the whole map and over windows, against loops in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_flax.functional.statistics import centred_and_variance, spatial_max, spatial_mean
from tests.annotations import refuses

RNG = np.random.default_rng(0)


def windows_of(x: np.ndarray, window: tuple[int, int]):
    """Yields each pixel and the pixels of its window: whole, inside the map, nearest to centred."""
    height, width = x.shape[:2]
    h, w = min(window[0], height), min(window[1], width)
    for i in range(height):
        top = min(max(i - (h - 1) // 2, 0), height - h)
        for j in range(width):
            left = min(max(j - (w - 1) // 2, 0), width - w)
            yield i, j, x[top : top + h, left : left + w]


def by_loops(x: np.ndarray, window: tuple[int, int]):
    mean, variance, maximum = (np.empty_like(x, dtype=np.float64) for _ in range(3))
    for i, j, inside in windows_of(x.astype(np.float64), window):
        mean[i, j] = inside.mean((0, 1))
        variance[i, j] = inside.var((0, 1))
        maximum[i, j] = inside.max((0, 1))
    return mean, variance, maximum


@pytest.mark.parametrize("window", [(1, 1), (2, 3), (3, 2), (5, 5), (6, 30), (30, 4), (7, 8)])
def test_windowed_statistics_are_those_of_the_window(window):
    x = RNG.normal(size=(9, 11, 2))
    mean, variance, maximum = by_loops(x, window)
    with jax.enable_x64(True):

        @jax.jit
        def statistics(x):
            return (
                spatial_mean(x, window=window),
                spatial_max(x, window=window),
                *centred_and_variance(x, window=window),
            )

        got_mean, got_maximum, centred, got_variance = map(np.asarray, statistics(x))
    # Sums of at most 99 numbers of order 1.
    np.testing.assert_allclose(got_mean, mean, atol=1e-14)
    np.testing.assert_allclose(centred, x - mean, atol=1e-14)
    np.testing.assert_allclose(got_variance, variance, atol=1e-14)
    np.testing.assert_array_equal(got_maximum, maximum)


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    mean=st.sampled_from([0.0, -3.0, 1e4]),
)
def test_a_window_that_covers_the_map_gives_the_global_result_exactly(height, width, extra, mean):
    x = jnp.asarray(mean + RNG.normal(size=(2, height, width, 3)), jnp.float32)
    window = (height + extra[0], width + extra[1])
    for statistic in (spatial_mean, spatial_max, centred_and_variance):
        chex.assert_trees_all_equal(statistic(x, window=window), statistic(x))


def test_windows_work_on_batches_of_any_rank_and_under_vmap():
    x = jnp.asarray(RNG.normal(size=(2, 3, 6, 5, 2)), jnp.float32)
    for statistic in (spatial_mean, spatial_max, centred_and_variance):

        @jax.jit
        def windowed(x, statistic=statistic):
            return statistic(x, window=(3, 4))

        together = windowed(x)
        one_by_one = jax.tree.map(
            lambda *rows: jnp.stack(rows).reshape(2, 3, *rows[0].shape),
            *(windowed(x[i, j]) for i in range(2) for j in range(3)),
        )
        # The same operations in the same order: not a bit may differ but by how they are compiled.
        chex.assert_trees_all_close(one_by_one, together, rtol=1e-6, atol=1e-6)
        chex.assert_trees_all_close(jax.vmap(windowed)(x), together, rtol=1e-6, atol=1e-6)


def test_windowed_gradients_are_those_of_the_formula():
    x = RNG.normal(size=(5, 6, 1))
    probe = RNG.normal(size=(2, 5, 6, 1))
    window = (2, 3)

    def loss(x):
        centred, variance = centred_and_variance(x, window=window)
        return (probe[0] * centred).sum() + (probe[1] * variance).sum()

    expected = np.zeros_like(x)
    expected += probe[0]
    rows = {(i, j): k for k, (i, j) in enumerate(np.ndindex(5, 6))}
    places = np.arange(30.0).reshape(5, 6, 1)
    for i, j, inside in windows_of(places, window):
        members = inside.astype(int).ravel()
        assert rows[i, j] == places[i, j, 0]
        values = x.ravel()[members]
        expected.ravel()[members] -= probe[0, i, j, 0] / members.size
        expected.ravel()[members] += 2 * probe[1, i, j, 0] * (values - values.mean()) / members.size
    with jax.enable_x64(True):
        got = np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(x)))
    np.testing.assert_allclose(got, expected, atol=1e-13)


def long_map(height: int, width: int) -> np.ndarray:
    """What breaks summed-area tables in float32: a strong ramp, a little noise, a bright corner."""
    ramp = 100 * np.linspace(0, 1, height)[:, None] + 50 * np.linspace(0, 1, width)
    x = ramp + RNG.normal(size=(height, width)) * 0.1
    x[: height // 8, : width // 8] += 1000
    return x[..., None].astype(np.float32)


def exact_moments(x: np.ndarray, window: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Windowed mean and variance in float64: exact enough to judge float32 by."""
    x = x.astype(np.float64) - 75
    out = []
    for values in (x, x * x):
        for axis, size in enumerate(window):
            table = np.insert(np.cumsum(values, axis), 0, 0, axis)
            values = np.take(table, range(size, table.shape[axis]), axis) - np.take(
                table, range(table.shape[axis] - size), axis
            )
            pad = [(0, 0)] * 3
            pad[axis] = ((size - 1) // 2, size // 2)
            values = np.pad(values, pad, mode="edge")
        out.append(values / (window[0] * window[1]))
    return out[0] + 75, out[1] - out[0] ** 2


@pytest.mark.parametrize(
    "shape",
    [(4000, 40), (40, 6000), pytest.param((4000, 6000), marks=pytest.mark.slow)],
)
def test_float32_stays_accurate_on_photograph_sized_maps(shape):
    x = long_map(*shape)
    window = (min(96, shape[0] - 1), min(96, shape[1] - 1))
    mean, variance = exact_moments(x, window)
    got_mean = jax.jit(functools.partial(spatial_mean, window=window))(x)
    centred, got_variance = jax.jit(functools.partial(centred_and_variance, window=window))(x)
    # 2 log2(96) roundings of values up to 1150: 14 * 1150 * 2^-24 = 1e-3 at the very worst; as
    # roundings differ in sign, a fifth of it is all. A float32 summed-area table is off by 0.18.
    np.testing.assert_allclose(got_mean, mean, atol=2e-4)
    np.testing.assert_allclose(centred, x - mean, atol=2e-4)
    # Those means enter the variance as 2 * error * standard deviation: 0.7 over the ramp, and up to
    # 500 where a window meets the corner, where variances are up to 250,000.
    np.testing.assert_allclose(got_variance, variance, rtol=2e-5, atol=2 * 2e-4 * 0.7)


@pytest.mark.parametrize("window", [3, (3,), (0, 4), (4, -1), (2.0, 2), [4, 0], (True, 3), "64"])
def test_a_wrong_window_is_explained(window):
    with refuses(r"window must be None.*\(height, width\).*got"):
        spatial_mean(jnp.ones((4, 4, 1)), window=window)
