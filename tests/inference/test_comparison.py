"""Before and after in one picture."""

import numpy as np
import pytest

from sa_flax.inference.comparison import both_rgb8, compare, most_detailed, removed, rgb8


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((9, 7), "u1"), ((9, 7, 2), "u1"), ((9, 7, 3), "u1"), ((9, 7, 4), "u1"), ((9, 7), "u2")],
)
def test_every_kind_of_picture_as_8_bit_colour(shape, dtype):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype)
    shown = rgb8(pixels)
    assert (shown.shape, shown.dtype) == ((9, 7, 3), np.uint8)
    first = pixels if pixels.ndim == 2 else pixels[..., 0]
    np.testing.assert_array_equal(shown[..., 0], np.round(first / (257 if dtype == "u2" else 1)))


def test_removed_noise_is_shown_about_equally_strong():
    after = np.full((64, 64, 3), 128, np.uint8)
    for sigma, strength in ((4, 10), (20, 2), (60, 1)):
        noise = np.random.default_rng(0).normal(0, sigma, after.shape)
        before = np.clip(np.round(after + noise), 0, 255).astype(np.uint8)
        shown, gain = removed(before, after)
        assert gain == strength
        assert shown.mean() == pytest.approx(128, abs=3)
    shown, _ = removed(after, after)
    assert (shown == 128).all()


@pytest.mark.parametrize(("top", "left"), [(0, 0), (20, 30), (44, 54), (7, 50)])
def test_the_part_with_the_most_edges_is_found(top, left):
    picture = np.full((64, 80, 3), 90, np.uint8)
    y, x = np.mgrid[:64, :80]
    picture[(y + x) % 2 == 0] = 96  # faint everywhere
    inside = (slice(top, top + 20), slice(left, left + 26))
    picture[inside] += (np.add.outer(np.arange(20), np.arange(26)) % 2 * 40)[..., None].astype("u1")
    found = most_detailed(picture, 20, 26)
    np.testing.assert_allclose(found, (top, left), atol=1)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3), (90, 120), (1500, 700), (700, 1500)])
def test_pictures_of_every_shape_are_compared(size):
    rng = np.random.default_rng(0)
    before = rng.integers(0, 256, (*size, 3), np.uint8)
    sheet = compare(before, before // 2)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] < 2100
    scale = min(1, 640 / max(size))
    corner = sheet[22 : 22 + max(round(size[0] * scale), 1), 8 : 8 + max(round(size[1] * scale), 1)]
    if scale == 1:
        red = (corner == (230, 60, 40)).all(-1)  # the frame of the enlarged part
        np.testing.assert_array_equal(corner[~red], before[~red])
    assert corner.size


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u4", "i2"])
def test_values_without_a_white_of_their_own_are_shown_on_the_scale_of_the_first(dtype):
    before = np.linspace(0, 1000, 60).reshape(6, 10).astype(dtype)
    after = (before / 2 + 10).astype(dtype)
    first, second = both_rgb8(before, after)
    assert (first.min(), first.max()) == (0, 255)
    np.testing.assert_allclose(second, first / 2.0 + 2.55, atol=1)
    assert compare(before, after).shape == compare(first, second).shape
