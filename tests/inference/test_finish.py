"""Strength, texture put back, and the mean over flips: what is done around a network."""

import numpy as np
import pytest
from flax import nnx
from scipy.ndimage import uniform_filter

import sa_flax
from sa_flax.data.builders import PHOTOGRAPHS
from sa_flax.errors import InputError
from sa_flax.inference import whole_or_tiles
from sa_flax.inference.box import block_means, box_means, channel_means
from sa_flax.inference.finish import REACH, Finish, Removed, texture
from sa_flax.pictures import read_rgb8
from tests.inference.test_denoiser import Halve
from tests.inference.test_rows_over_devices import network
from tests.inference.test_tiling import in_tiles_of, picture

NOISE = np.random.default_rng(0).normal(0, 0.1, (128, 160, 3)).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 37, 3), (3, 50, 1), (1, 1, 3), (2, 7, 4)])
@pytest.mark.parametrize("width", [1, 5, 11, 15])
def test_means_over_windows_are_scipys(shape, width):
    x = np.random.default_rng(0).random(shape)
    expected = uniform_filter(x, (width, width, 1), mode="mirror")
    means = box_means(x, width)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=3e-6)


@pytest.mark.parametrize("shape", [(40, 37, 3), (5, 50, 1), (16, 16, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool])
def test_means_over_channels_and_blocks_are_numpys(shape, dtype):
    x = np.random.default_rng(0).random(shape)
    x = x < 0.5 if dtype is bool else x.astype(dtype)
    np.testing.assert_allclose(channel_means(x), x.mean(axis=-1), rtol=1e-6)
    side = 8
    high, wide = (min(side, length) for length in shape[:2])
    expected = [
        x[row : row + high, column : column + wide].mean(axis=(0, 1))
        for row in range(0, shape[0] - high + 1, high)
        for column in range(0, shape[1] - wide + 1, wide)
    ]
    means = block_means(x, side)
    assert means.dtype == channel_means(x).dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=1e-6)


@pytest.mark.parametrize("strength", [0, 0.25, 1])
def test_strength(strength):
    noisy = picture(20, 30)
    clean = sa_flax.Denoiser(Halve(3))(noisy, strength=strength)
    np.testing.assert_allclose(clean, noisy * (1 - strength / 2), atol=1e-6)
    eight = np.round(noisy * 255).astype(np.uint8)
    np.testing.assert_array_equal(sa_flax.Denoiser(Halve(1))(eight, strength=0), eight)


@pytest.mark.parametrize("name", ["strength", "keep_detail"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_outside_of_the_range(name, value):
    with pytest.raises(ValueError, match=f"{name} goes from 0 to 1"):
        sa_flax.Denoiser(Halve(3))(picture(8, 8), **{name: value})


FLAT = np.full(NOISE.shape, 0.5, np.float32)


def test_noise_is_no_texture():
    usual = Removed.of([(FLAT + NOISE, FLAT)])
    # White noise's shares: 1 - 2 w + w^2 and w^2 with the spline's squares, (70 / 256)^2, and its
    # centre, (6 / 16)^2. The median is a few percent below the mean.
    for power, share in zip(usual.power, (0.7935, 0.0748), strict=True):
        np.testing.assert_allclose(power.mean(), share * NOISE.var(), rtol=0.08)
    # Of what was removed, all of it noise, a few percent come back.
    kept = texture(FLAT + NOISE, FLAT, usual)
    assert np.square(kept).mean() < 0.01 * NOISE.var()


def test_what_was_smoothed_away_in_one_place_comes_back():
    x = np.broadcast_to(np.arange(160), (128, 160))
    hair = np.where((x % 4 == 0) & (x < 64), 0.4, 0)[..., None].astype(np.float32)
    usual = Removed.of([(FLAT + NOISE + hair, FLAT)])
    found = texture(FLAT + NOISE + hair, FLAT, usual)[..., 0]
    lines = found[:, :60:4].mean() - found[:, 2:60:4].mean()
    assert lines > 0.15, "the lines that were smoothed away don't come back"
    assert np.abs(found[:, 80:]).mean() < 0.1 * np.abs(NOISE).mean()


def test_noise_is_known_by_brightness_and_colour():
    """Twice the noise in the light half, and in red: no texture for that."""
    clean = FLAT + np.where(np.arange(160) < 80, -0.3, 0.3)[:, None].astype(np.float32)
    noise = NOISE * np.where(clean > 0.5, 2, 1) * np.array([2, 1, 1], np.float32)
    usual = Removed.of([(clean + noise, clean)])
    kept = texture(clean + noise, clean, usual)
    assert np.square(kept).mean() < 0.02 * noise.var()


def two_halves(dark, light, dark_noise, light_noise):
    """(noisy, clean): either half of its brightness, with noise of its own."""
    left = np.arange(160)[:, None] < 80
    clean = FLAT * 0 + np.where(left, dark, light).astype(np.float32)
    noise = 10 * NOISE * np.where(left, dark_noise, light_noise).astype(np.float32)
    return np.maximum(clean + noise, 0), clean


def came_back(noisy, clean):
    """The share of what was removed from the light half that is put back, by power."""
    kept = texture(noisy, clean, Removed.of([(noisy, clean)]))
    return np.square(kept[:, 80:]).mean() / np.square((noisy - clean)[:, 80:]).mean()


@pytest.mark.parametrize(
    ("dark", "light", "dark_noise", "light_noise", "comes_back"),
    [
        (0.2, 0.7, 0.003, 0.08, True),  # gravel in the sun, all of it removed
        (0.2, 0.7, 0.02, 0.08, False),  # steep for a sensor
        (0.2, 0.7, 0.08, 0.01, False),  # a tone curve is flat in the lights
        (0.0, 0.7, 0.0, 0.08, False),  # black has none left, it was clipped
        (0.01, 0.7, 0.001, 0.08, False),
    ],
)
def test_light_places_may_not_have_far_more_than_dark_ones(
    dark, light, dark_noise, light_noise, comes_back
):
    share = came_back(*two_halves(dark, light, dark_noise, light_noise))
    assert share > 0.6 if comes_back else share < 0.03


@pytest.mark.parametrize(("rest", "comes_back"), [(0.006, True), (0.02, False), (0, False)])
def test_what_is_alike_bright_may_not_have_far_more_than_a_tenth_of_it(rest, comes_back):
    """Gravel that was removed nearly everywhere comes back; a frame says nothing about noise."""
    deviation = np.where(np.arange(160)[:, None] < 16, rest, 0.08)
    share = came_back(*two_halves(0.5, 0.5, deviation, deviation))
    assert share > 0.3 if comes_back else share < 0.03


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_faint_and_uneven_comes_back(channels):
    """Half of the blocks have lost next to nothing."""
    faint = 0.4 / 255 * 10 * NOISE[..., :channels]
    uneven = faint * np.where(np.arange(128) % 64 < 32, 0.05, 1)[:, None, None].astype(np.float32)
    flat = FLAT[..., :channels]
    even, torn = (
        texture(flat + x, flat, Removed.of([(flat + x, flat)])) for x in (4 * faint, uneven)
    )
    assert np.square(even).mean() < 0.03 * np.square(4 * faint).mean()
    assert np.square(torn).mean() > 0.8 * np.square(uneven).mean()


def test_detail_comes_back_by_as_much_as_is_asked_for():
    noisy = picture(60, 50)
    clean = noisy / 2
    usual = Removed.of([(noisy, clean)])
    kept = texture(noisy, clean, usual)
    assert np.abs(kept).max() > 0.01
    for amount in (0.5, 1.0):
        result = Finish(keep_detail=amount).after([(noisy, clean)])(noisy, clean)
        np.testing.assert_allclose(result, clean + np.float32(amount) * kept, atol=1e-6)


def test_by_strips(monkeypatch):
    noisy = picture(150, 40)
    finish = Finish(keep_detail=1).after([(noisy, noisy / 2)])
    whole = finish(noisy, noisy / 2)
    monkeypatch.setattr("sa_flax.inference.finish._STRIP", 40 * 31)
    np.testing.assert_allclose(finish(noisy, noisy / 2), whole, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (2, 50), (9, 13)])
@pytest.mark.parametrize("channels", [1, 3])
def test_of_small_pictures(size, channels):
    noisy = picture(*size)[..., :channels]
    finish = Finish(keep_detail=1.0).after([(noisy, noisy)])
    np.testing.assert_allclose(finish(noisy, noisy), noisy, atol=1e-6)
    clean = finish.after([(noisy, noisy / 2)])(noisy, noisy / 2)
    assert clean.shape == noisy.shape
    assert clean.dtype == np.float32
    usual = Removed.of([(noisy, noisy / 2)])
    assert {x.dtype for x in usual.power} == {np.dtype(np.float32)}
    assert np.isfinite(clean).all()


@pytest.mark.parametrize(
    ("gray_levels", "even", "stays"),
    [(0.3, True, True), (0.7, False, True), (1, True, False), (2, False, False)],
)
def test_what_is_not_seen_and_may_be_texture_stays(gray_levels, even, stays):
    """Noise has as much in all blocks, fine texture has it in some."""
    ramp = FLAT + np.linspace(-0.2, 0.2, 160, dtype=np.float32)[:, None]
    share = 1 if even else np.where(np.arange(128) % 64 < 16, 0.35, 1)[:, None, None]
    noise = (gray_levels / 255 * 10 * NOISE * share).astype(np.float32)
    finish = Finish(keep_detail=1).after([(ramp + noise, ramp)])
    left = np.square(finish(ramp + noise, ramp) - ramp).mean() / np.square(noise).mean()
    assert left > 0.9 if stays else left < 0.2


@pytest.mark.parametrize(("most", "comes_back"), [(3, True), (15, False)])
def test_where_noise_is_faint_a_quarter_of_the_blocks_tells_it(most, comes_back):
    """Fine texture in two blocks of three, with three times the noise of the others."""
    gray_levels = np.where(np.arange(128) % 48 < 16, most / 3, most)[:, None, None]
    removed = (gray_levels / 255 * 10 * NOISE).astype(np.float32)
    kept = texture(FLAT + removed, FLAT, Removed.of([(FLAT + removed, FLAT)]))
    share = np.square(kept)[16:48].mean() / np.square(removed)[16:48].mean()
    assert share > 0.5 if comes_back else share < 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_texture_looks_no_further_than_it_says(channels):
    noisy = picture(101, 101)[..., :channels]
    clean = 0.9 * noisy
    usual = Removed.of([(noisy, clean)])
    changed = noisy.copy()
    changed[50, 50] += 9
    differs = texture(noisy, clean, usual) != texture(changed, clean, usual)
    places = np.argwhere(differs)[:, :2]
    assert 10 <= np.abs(places - 50).max() <= REACH


def test_a_networks_own_amount(tmp_path):
    model = network("none", width=4, levels=2)
    options = {"channels": 3, "width": 4, "levels": 2, "attention": "none", "attend": "both"}
    config = {"model": "attention_unet", "options": options, "keep_detail": 0.6}
    sa_flax.save_pretrained(model, tmp_path / "own", config=config)
    own = sa_flax.Denoiser.from_pretrained(tmp_path / "own")
    noisy = picture(40, 50)
    assert own.keep_detail == 0.6
    np.testing.assert_array_equal(own(noisy), own(noisy, keep_detail=0.6))
    assert np.abs(own(noisy) - own(noisy, keep_detail=0)).max() > 1e-4
    sa_flax.save_pretrained(model, tmp_path / "bad", config={**config, "keep_detail": 2})
    with pytest.raises(InputError, match="must be a number from 0 to 1; got 2"):
        sa_flax.Denoiser.from_pretrained(tmp_path / "bad")


def test_the_shipped_network_leaves_the_texture_of_clean_pictures():
    spices = read_rgb8(PHOTOGRAPHS / "budgie-the-spices-of-life.jpg")[:288, :320]
    denoiser = sa_flax.Denoiser.from_pretrained("photo")

    def squares(keep_detail):  # in gray levels
        return np.square(denoiser(spices, keep_detail=keep_detail).astype(float) - spices).mean()

    assert squares(keep_detail=1) < 0.1
    assert squares(keep_detail=0) > 1


@pytest.mark.parametrize("held", [True, False], ids=["held", "by parts"])
def test_in_tiles_as_whole(held, monkeypatch):
    """The noise is measured before, of the whole or of parts of it, so tiles agree."""
    if not held:
        monkeypatch.setattr(whole_or_tiles, "_HELD", 0)
        monkeypatch.setattr(whole_or_tiles, "_LOOKED_AT", 32)
    denoiser = sa_flax.Denoiser(network("none", width=4, levels=2))
    noisy = picture(190, 170)
    options = {"strength": 0.7, "keep_detail": 0.8, "declip": True, "self_ensemble": True}
    whole = denoiser(noisy, **options)
    assert np.abs(whole - denoiser(noisy, **options | {"keep_detail": 0})).max() > 1e-4
    in_tiles_of(96, monkeypatch=monkeypatch)
    calls = []
    again = sa_flax.Denoiser(denoiser.model)
    tiled = again(noisy, **options, report=lambda done, total: calls.append((done, total)))
    assert len(calls) > 1
    np.testing.assert_allclose(tiled, whole, atol=4e-6)


class Shift(nnx.Module):
    """A network that looks at one mirror image: that of the rows."""

    channels = 3

    def __call__(self, noisy):
        return 0.5 * noisy + 0.5 * noisy[:, ::-1]


def test_the_mean_over_flips_has_no_direction():
    noisy = picture(12, 18)
    clean = sa_flax.Denoiser(Shift())(noisy, self_ensemble=True)
    flips = [noisy, noisy[::-1], noisy[:, ::-1], noisy[::-1, ::-1]]
    # Turned by a quarter, rows are columns: the mirror is of either axis in turn.
    expected = 0.5 * noisy + 0.25 * (flips[1] + flips[2])
    np.testing.assert_allclose(clean, expected, atol=1e-6)


def test_a_network_that_knows_no_direction_is_not_changed_by_it():
    denoiser, noisy = sa_flax.Denoiser(Halve(3)), picture(9, 14)
    np.testing.assert_allclose(denoiser(noisy, self_ensemble=True), denoiser(noisy), atol=1e-6)
