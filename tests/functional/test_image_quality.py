"""PSNR and SSIM against scikit-image's, under the settings that the docstrings name."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sa_flax.functional import psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    clean = rng.random((2, 23, 31, 3), np.float32)
    return clean, np.clip(clean + rng.normal(0, 0.1, clean.shape).astype(np.float32), 0, 1)


def test_psnr_is_scikit_images(pair):
    clean, noisy = pair
    expected = [peak_signal_noise_ratio(c, n, data_range=1) for c, n in zip(*pair, strict=True)]
    np.testing.assert_allclose(psnr(noisy, clean), expected, rtol=1e-5)
    np.testing.assert_allclose(psnr(noisy[0], clean[0]), expected[0], rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_scikit_images(pair, channels):
    clean, noisy = (x[..., :channels] for x in pair)
    expected = [
        structural_similarity(
            c,
            n,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        for c, n in zip(clean, noisy, strict=True)
    ]
    np.testing.assert_allclose(ssim(jnp.asarray(noisy), jnp.asarray(clean)), expected, rtol=1e-4)


def test_equal_pictures():
    x = jnp.linspace(0, 1, 16 * 16).reshape(16, 16, 1)
    assert psnr(x, x) == jnp.inf
    np.testing.assert_allclose(ssim(x, x), 1, rtol=1e-6)


def test_errors_say_what_is_needed():
    with pytest.raises(ValueError, match="one shape"):
        psnr(jnp.zeros((4, 4, 1)), jnp.zeros((4, 5, 1)))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(jnp.zeros((8, 8, 1)), jnp.zeros((8, 8, 1)))
