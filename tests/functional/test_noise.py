"""One contract for all noise models, and each one's statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sa_flax.functional import gaussian_noise, poisson_gaussian_noise, uniform_levels
from sa_flax.functional.noise import from_linear

MODELS = {
    "gaussian": gaussian_noise,
    "poisson_gaussian": lambda key, clean, level, **kw: poisson_gaussian_noise(
        key, clean, level, read_noise=0.02, **kw
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def test_contract(model):
    clean = jnp.full((2, 8, 6, 3), 0.9)
    key = jax.random.key(0)
    noisy = jax.jit(model)(key, clean, 0.1)
    chex.assert_shape(noisy, clean.shape)
    assert noisy.dtype == clean.dtype
    chex.assert_tree_all_finite(noisy)
    chex.assert_trees_all_equal(noisy, jax.jit(model)(key, clean, 0.1))
    assert not np.array_equal(noisy, model(jax.random.key(1), clean, 0.1))
    assert not np.array_equal(noisy[0], noisy[1]), "pictures of a batch share their noise"
    assert noisy.max() > 1, "clipped without being asked"
    clipped = model(key, clean, 0.1, clip=True)
    chex.assert_trees_all_equal(clipped, jnp.clip(clipped, 0, 1))


def test_one_level_for_each_picture(model):
    clean = jnp.full((2, 64, 64, 1), 0.5)
    noisy = model(jax.random.key(0), clean, jnp.array([0.01, 0.2]))
    assert noisy[1].std() > 3 * noisy[0].std()
    with pytest.raises(ValueError, match="one for each"):
        model(jax.random.key(0), clean, jnp.array([0.1, 0.1, 0.1]))


def test_gaussian_sigma_is_in_the_pictures_units():
    clean = jnp.full((1, 256, 256, 1), 0.5)
    residual = gaussian_noise(jax.random.key(0), clean, 25 / 255) - clean
    n = residual.size
    # Standard errors: sigma / sqrt(n) of the mean, sigma / sqrt(2 n) of the deviation; four each.
    np.testing.assert_allclose(residual.mean(), 0, atol=4 * 25 / 255 / n**0.5)
    np.testing.assert_allclose(residual.std(), 25 / 255, rtol=4 / (2 * n) ** 0.5)


@pytest.mark.parametrize("value", [0.1, 0.8])
def test_poisson_gaussian_variance_grows_with_the_light(value):
    clean = jnp.full((1, 256, 256, 1), value)
    noisy = poisson_gaussian_noise(jax.random.key(0), clean, 0.01, read_noise=0.02)
    expected = 0.01 * value + 0.02**2
    np.testing.assert_allclose(noisy.mean(), value, atol=4 * (expected / noisy.size) ** 0.5)
    # The variance's relative standard error is sqrt((2 + excess kurtosis) / n), at most 1.5 * that
    # of a Gaussian here.
    np.testing.assert_allclose(noisy.var(), expected, rtol=6 * (2 / noisy.size) ** 0.5)


def test_more_photons_than_float16_counts():
    clean = jnp.full((1, 64, 64, 1), 0.8, jnp.float16)
    noisy = poisson_gaussian_noise(jax.random.key(0), clean, 1e-5)
    assert noisy.dtype == jnp.float16
    np.testing.assert_allclose(noisy.astype(jnp.float32), 0.8, atol=0.02)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_slope_of_light_is_finite_at_no_light(dtype):
    assert jnp.isfinite(jax.grad(lambda x: from_linear(x[None])[0])(jnp.zeros((), dtype)))


def test_uniform_levels_fill_their_range():
    levels = uniform_levels(jax.random.key(0), 1000, 0.1, 0.3)
    assert 0.1 <= levels.min() < 0.11
    assert 0.29 < levels.max() < 0.3
