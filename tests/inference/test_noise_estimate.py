"""The noise of a picture: how much, and whether neighbouring pixels go together."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter, zoom

from sa_flax.inference.noise_estimate import estimate_noise


def scene(height: int = 256, width: int = 320) -> np.ndarray:
    """Shading, edges, and texture in a corner."""
    y, x = np.mgrid[:height, :width]
    shading = 0.5 + 0.2 * np.sin(x / 61) * np.cos(y / 43) + 0.1 * np.sign(np.sin((x + y) / 37))
    texture = 0.1 * np.sin(x / 1.3) * np.sin(y / 1.7) * ((x < 90) & (y < 90))
    return np.stack([shading + texture] * 3, axis=-1)


def noise(shape, blur: float = 0) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(shape)
    if blur:
        values = gaussian_filter(values, (blur, blur, 0))
        values /= values.std()
    return values


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
def test_white_noise(sigma):
    clean = scene()
    found = estimate_noise((clean + sigma / 255 * noise(clean.shape)).astype(np.float32))
    np.testing.assert_allclose(np.multiply(found.sigma, 255), sigma, rtol=0.1)
    assert found.white


def test_each_channel_has_its_own():
    clean = scene()
    levels = np.array([5, 15, 30]) / 255
    found = estimate_noise(clean + levels * noise(clean.shape))
    np.testing.assert_allclose(found.sigma, levels, rtol=0.12)


@pytest.mark.parametrize("blur", [0.7, 1.0, 2.0])
def test_blurred_noise_is_not_white(blur):
    clean = scene()
    found = estimate_noise(clean + 25 / 255 * noise(clean.shape, blur))
    assert not found.white
    assert found.ratio > 1.35


def test_enlarged_and_averaged_noise_is_not_white():
    clean = scene()
    small = noise((128, 160, 3))
    assert not estimate_noise(clean + 0.1 * zoom(small, (2, 2, 1), order=1)).white
    assert not estimate_noise(clean + 0.3 * uniform_filter(noise(clean.shape), (2, 2, 1))).white


def test_a_clean_picture_has_little():
    found = estimate_noise(np.round(scene() * 255).astype(np.uint8))
    assert max(found.sigma) < 2 / 255
    assert found.white


def test_kinds_of_pictures():
    clean = scene()
    noisy = np.clip(clean + 0.1 * noise(clean.shape), 0, 1)
    expected = estimate_noise(noisy).sigma[0]
    alpha = np.full((*clean.shape[:2], 1), 255, np.uint8)
    eight = np.round(noisy * 255).astype(np.uint8)
    for picture in (eight, np.concatenate([eight, alpha], -1), eight[..., 0], eight[..., :1]):
        found = estimate_noise(picture)
        assert len(found.sigma) == (3 if picture.shape[-1] in (3, 4) else 1)
        np.testing.assert_allclose(found.sigma[0], expected, rtol=0.05)
    sixteen = np.round(noisy * 65535).astype(">u2")
    np.testing.assert_allclose(estimate_noise(sixteen).sigma[0], expected, rtol=0.05)


def test_a_white_sky_hides_nothing_of_the_rest():
    clean = scene()
    noisy = np.clip(clean + 0.1 * noise(clean.shape), 0, 1)
    noisy[:160] = 1
    np.testing.assert_allclose(estimate_noise(noisy).sigma, 0.1, rtol=0.15)
    assert estimate_noise(np.ones((64, 64))).sigma == (0,)


@pytest.mark.parametrize("shape", [(8, 90), (2, 64, 64, 3), (64,)])
def test_what_is_no_picture(shape):
    with pytest.raises(ValueError, match=r"at least 16 x 16|must be \(H, W\)"):
        estimate_noise(np.zeros(shape, np.float32))
