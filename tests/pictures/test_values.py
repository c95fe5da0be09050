"""Unit range, alpha, channels: what values mean and that they come back."""

import numpy as np
import pytest

from sa_flax.errors import InputError
from sa_flax.pictures import (
    from_unit,
    on_colours,
    side_by_side,
    split_alpha,
    to_channels,
    to_unit,
)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16", "uint32", "float16"])
def test_every_value_comes_back(dtype):
    kind = np.dtype(dtype)
    if kind == np.uint32:
        pixels = np.arange(100_000, dtype=kind)
    elif kind.kind == "f":
        pixels = np.linspace(-300, 2000, 999).astype(kind)
    else:
        limits = np.iinfo(kind)
        pixels = np.arange(limits.min, limits.max + 1).astype(kind)
    unit, scale = to_unit(pixels)
    assert unit.dtype == np.float32
    assert unit.min() >= 0
    assert unit.max() <= 1
    again = from_unit(unit, scale)
    assert again.dtype == kind
    np.testing.assert_array_equal(again, pixels)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, (0, 1)), (0.1, 0.3, (0, 1)), (0.0, 255.0, (0, 255)), (3.0, 12.0, (0, 12)),
        (-1.0, 1.0, (-1, 1)), (-0.01, 0.9, (-0.01, 1)), (0.0, 4000.0, (0, 4000)),
    ],
)  # fmt: skip
def test_the_range_of_floats_is_their_own(low, high, expected):
    pixels = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
    unit, scale = to_unit(pixels)
    assert (scale.low, scale.high) == pytest.approx(expected)
    np.testing.assert_allclose(from_unit(unit, scale), pixels, rtol=1e-6, atol=1e-6 * high)
    brighter = from_unit(np.full(3, 7.0, np.float32), scale)
    assert (brighter == np.float32(scale.high)).all(), "clipped"


def test_unit_values_are_what_they_were():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_unit(pixels)[0], pixels.astype(np.float32) / 255)
    unit, scale = to_unit(np.float32([0.25, 0.5]))
    np.testing.assert_array_equal(unit, np.float32([0.25, 0.5]))
    np.testing.assert_array_equal(from_unit(unit, scale), np.float32([0.25, 0.5]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_both_ways(value):
    with pytest.raises(InputError, match="not finite"):
        to_unit(np.float32([0.5, value]))
    with pytest.raises(InputError, match="not finite"):
        from_unit(np.float32([0.5, value]), to_unit(np.uint8([0, 1]))[1])
    with pytest.raises(InputError, match="complex64"):
        to_unit(np.zeros(3, np.complex64))


def test_alpha_is_split_off():
    for channels, colours in ((1, 1), (2, 1), (3, 3), (4, 3)):
        pixels = np.arange(2 * 3 * channels).reshape(1, 2, 3, channels)
        colour, alpha = split_alpha(pixels)
        assert colour.shape[-1] == colours
        np.testing.assert_array_equal(np.concatenate([colour, alpha], -1), pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_functions_of_unit_values_see_colours_only(dtype, channels):
    rng = np.random.default_rng(0)
    shape = (5, 6) if channels is None else (5, 6, channels)
    pixels = (rng.random(shape) * 100).astype(dtype)
    if channels in (2, 4) and dtype == "float32":
        pixels[..., -1] = rng.random((5, 6)) / 7  # alpha has another range than the colours
    seen = []

    def function(unit):
        seen.append(unit.shape[-1])
        assert unit.dtype == np.float32
        assert unit.max() <= 1
        return unit * 0.5

    result = on_colours(function, pixels)
    assert seen == [{None: 1, 1: 1, 2: 1, 3: 3, 4: 3}[channels]]
    assert result.shape == shape
    assert result.dtype == pixels.dtype
    if channels in (2, 4):
        np.testing.assert_array_equal(result[..., -1], pixels[..., -1])
        result, pixels = result[..., :-1], pixels[..., :-1]
    np.testing.assert_allclose(
        result, pixels * 0.5, atol=0 if dtype == "float32" else 0.51, rtol=1e-6
    )


def test_channels_and_rows_of_pictures():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    assert to_channels(rgb, 3) is rgb
    luma = rgb @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(to_channels(rgb, 1)[..., 0], luma, atol=1)
    row = side_by_side([np.full((2, 3, 1), 0.5), np.full((2, 4, 3), 7.0)], gap=1)
    assert row.shape == (2, 8, 3)
    assert row.dtype == np.uint8
    np.testing.assert_array_equal(row[0, :, 0], [128] * 3 + [255] * 5)
