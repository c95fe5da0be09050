"""Non-local means against scikit-image's, against the plain formula, and as an affinity."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.restoration import denoise_nl_means

from sa_flax.functional import non_local_means, psnr
from tests.annotations import refuses

CASES = [
    {"patch_size": 5, "patch_distance": 6, "h": 0.1},
    {"patch_size": 5, "patch_distance": 3, "h": 0.1, "sigma": 0.1},
    {"patch_size": 4, "patch_distance": 3, "h": 0.05},  # counts as 5
    {"patch_size": 3, "patch_distance": 2, "h": 0.3, "sigma": 0.1},
    {"patch_size": 7, "patch_distance": 11, "h": 0.2, "sigma": 0.05},
]


def picture(*shape: int, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """A step and a ramp with noise: smooth parts, an edge, and nothing that repeats exactly."""
    rng = np.random.default_rng(seed)
    height, width = shape[:2]
    clean = 0.2 + 0.6 * (np.arange(width) > width // 2) * np.linspace(0.5, 1, height)[:, None]
    return clean[..., None] * np.linspace(1, 0.7, shape[2]) + noise * rng.normal(size=shape)


def scikit_image(x: np.ndarray, options: dict) -> np.ndarray:
    gray = x.shape[-1] == 1
    out = denoise_nl_means(
        x[..., 0] if gray else x,
        **options,
        fast_mode=False,
        preserve_range=True,
        channel_axis=None if gray else -1,
    )
    return out.reshape(x.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", CASES)
def test_agrees_with_scikit_image(options, channels):
    x = picture(13, 12, channels)
    expected = scikit_image(x, options)
    assert np.abs(expected - x).max() > 1e-3
    with jax.enable_x64(True):
        got = np.asarray(jax.jit(functools.partial(non_local_means, **options))(jnp.asarray(x)))
    # scikit-image cuts the exponent to multiples of 2^-20: a millionth of a weight.
    np.testing.assert_allclose(got, expected, atol=1e-7)
    got = non_local_means(jnp.asarray(x, jnp.float32), **options)
    # Sums of up to 23^2 weighted values of order 1, in float32.
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(got, scikit_image(x.astype(np.float32), options), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 7, 1), (2, 2, 3), (5, 1, 1)])
def test_agrees_on_pictures_smaller_than_a_patch(shape):
    options = {"patch_size": 7, "patch_distance": 3, "h": 0.2}
    x = picture(*shape)
    with jax.enable_x64(True):
        got = np.asarray(non_local_means(jnp.asarray(x), **options))
    np.testing.assert_allclose(got, scikit_image(x, options), atol=1e-7)


def by_the_formula(x, patch_size, distance, h, sigma):
    """The docstring's formula, pixel by pixel, in float64."""
    radius = patch_size // 2
    offsets = np.arange(-radius, radius + 1)
    g = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * ((patch_size - 1) / 4) ** 2))
    padded = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    height, width, channels = x.shape

    def patch(i, j):
        return padded[i : i + patch_size, j : j + patch_size]

    out = np.empty_like(x)
    for i, j in np.ndindex(height, width):
        weights, total = 0.0, np.zeros(channels)
        for a in range(max(i - distance, 0), min(i + distance + 1, height)):
            for b in range(max(j - distance, 0), min(j + distance + 1, width)):
                squares = ((patch(i, j) - patch(a, b)) ** 2 - 2 * sigma**2).sum(-1)
                d = (g * squares).sum() / (channels * h**2 * g.sum())
                weight = np.exp(-max(d, 0))
                weights, total = weights + weight, total + weight * x[a, b]
        out[i, j] = total / weights
    return out


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("distance", [2, None])
def test_exact_weights_are_those_of_the_formula(distance, sigma):
    """Without a distance it is the affinity of all pixels: patches compared, pixels averaged."""
    x = picture(8, 7, 2)
    expected = by_the_formula(x, 3, 100 if distance is None else distance, 0.15, sigma)
    with jax.enable_x64(True):
        got = non_local_means(
            jnp.asarray(x),
            patch_size=3,
            patch_distance=distance,
            h=0.15,
            sigma=sigma,
            approximate=False,
        )
        got = np.asarray(got)
    np.testing.assert_allclose(got, expected, atol=1e-13)


def test_batches_are_pictures_one_by_one_in_any_dtype():
    x = jnp.asarray(np.stack([picture(7, 6, 3, seed=s) for s in range(2)]), jnp.float32)
    denoise = jax.jit(functools.partial(non_local_means, patch_distance=2))
    together = denoise(x)
    chex.assert_trees_all_close(denoise(x[1]), together[1], atol=1e-6)
    chex.assert_trees_all_close(jax.vmap(denoise)(x), together, atol=1e-6)
    narrow = denoise(x.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    wide = denoise(x.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(narrow.astype(np.float32), wide.astype(jnp.bfloat16))


def test_it_denoises_and_can_be_tuned_by_gradient():
    clean = jnp.asarray(picture(24, 24, 1, noise=0), jnp.float32)
    noisy = jnp.asarray(picture(24, 24, 1, noise=0.1), jnp.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(x, h):
        denoised = non_local_means(x, patch_distance=4, h=h, sigma=0.1)
        return jnp.mean(jnp.square(denoised - clean))

    value, (of_map, of_h) = loss(noisy, 0.06)
    assert 10 * np.log10(1 / value) > psnr(noisy, clean) + 5
    chex.assert_tree_all_finite((of_map, of_h))
    # Finite differences in h, away from the cut-off's jumps, agree to their own accuracy.
    step = 1e-3
    slope = (loss(noisy, 0.06 + step)[0] - loss(noisy, 0.06 - step)[0]) / (2 * step)
    assert float(of_h) == pytest.approx(float(slope), rel=0.2)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((4, 4, 1), np.uint8), {}, r"uint8.*\[0, 1\]"),
        (np.zeros((4, 4), np.float32), {}, r"\(\.\.\., H, W, C\).*got shape \(4, 4\)"),
        (np.zeros((4, 4, 1), np.float32), {"patch_size": 0}, "patch_size must be .* got 0"),
        (np.zeros((4, 4, 1), np.float32), {"patch_distance": 0}, "patch_distance .* got 0"),
        (np.zeros((4, 4, 1), np.float32), {"h": 0.0}, "h, .* must be above 0; got 0.0"),
        (np.zeros((4, 4, 1), np.float32), {"h": -0.1, "patch_distance": None}, "above 0; got -0.1"),
    ],
)
def test_wrong_requests_are_explained(x, options, message):
    with refuses(message):
        non_local_means(jnp.asarray(x), **options)
