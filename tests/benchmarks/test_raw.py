"""What a camera makes of a picture, in the benchmark of quality."""

import numpy as np
import pytest

from benchmarks.raw import interpolated, through_raw


def mosaic_of(picture: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(picture.shape[:2]) % 2
    return np.take_along_axis(picture, (rows + columns)[..., None], axis=-1)[..., 0]


def test_interpolation_keeps_what_is_seen_and_planes_of_gray():
    y, x = np.mgrid[:24, :30].astype(float)
    plane = np.repeat((0.3 + 0.01 * x - 0.007 * y)[..., None], 3, axis=-1)
    found = interpolated(mosaic_of(plane))
    np.testing.assert_allclose(found[3:-3, 3:-3], plane[3:-3, 3:-3], atol=1e-12)
    random = np.random.default_rng(0).random((24, 30, 3))
    seen = mosaic_of(random)
    np.testing.assert_array_equal(mosaic_of(interpolated(seen)), seen)


def test_interpolation_is_even_handed():
    """Rows and columns, red and blue are treated alike."""
    seen = np.random.default_rng(1).random((20, 20))
    np.testing.assert_allclose(
        interpolated(seen.T), interpolated(seen).transpose(1, 0, 2), atol=1e-12
    )
    turned = interpolated(np.roll(seen, (1, 1), (0, 1)))[5:-5, 5:-5, ::-1]
    np.testing.assert_allclose(turned, interpolated(seen)[4:-6, 4:-6], atol=1e-12)


def test_smooth_pictures_come_back():
    y, x = np.mgrid[:64, :64] / 64
    smooth = np.stack([0.2 + 0.5 * x, 0.3 + 0.3 * y, 0.5 - 0.2 * x], axis=-1)
    noisy, reference = through_raw(smooth, 1e-3, seed=0)
    assert np.abs(reference - smooth)[4:-4, 4:-4].max() < 2.5 / 255
    assert noisy.dtype == np.float32
    assert np.mean((noisy - reference) ** 2) > 0


def test_noise_in_linear_light_grows_with_the_root_of_the_light():
    def light(x: np.ndarray) -> np.ndarray:
        return ((x.astype(float) + 0.055) / 1.055) ** 2.4

    found = []
    for value in (0.3, 0.7):
        noisy, reference = through_raw(np.full((160, 160, 3), value), 3e-4, seed=1)
        found.append(np.std(light(noisy) - light(reference)))
    expected = np.sqrt(light(np.array(0.7)) / light(np.array(0.3)))
    assert found[1] / found[0] == pytest.approx(expected, rel=0.05)
