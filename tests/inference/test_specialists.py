"""White noise goes to the network that knows nothing else, and no other noise does."""

import jax.numpy as jnp
import numpy as np
import pytest

import sa_flax
from sa_flax.data import PHOTOGRAPHS
from sa_flax.errors import InputError
from sa_flax.functional.jpeg import jpeg_compress
from sa_flax.inference import whole_or_tiles
from sa_flax.inference.specialists import leaves_no_noise, looks_white, parts_of
from sa_flax.pictures import read_rgb8
from tests.inference.test_finish import network

PLAIN = np.full((192, 160, 3), 0.5, np.float32)
SPICES = read_rgb8(PHOTOGRAPHS / "budgie-the-spices-of-life.jpg")[40:232, 60:252] / np.float32(255)
GRAY = SPICES.mean(-1, keepdims=True)


def noise(sigma, shape=PLAIN.shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(0, sigma / 255, shape))


def smoothed(x):
    return (x + np.roll(x, 1, 0) + np.roll(x, 1, 1)) / np.sqrt(3)


def compressed(x):
    return np.asarray(jpeg_compress(jnp.asarray(x)[None], 90.0))[0]


@pytest.fixture(scope="module")
def photo():
    return sa_flax.Denoiser.from_pretrained("photo")


@pytest.mark.parametrize("sigma", [5, 25, 80])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_noise_looks_white(sigma, channels):
    clean = PLAIN[..., :channels]
    assert looks_white([(clean + noise(sigma, clean.shape), clean)])


def test_noise_that_grows_with_light_looks_white():
    clean = PLAIN * np.linspace(0.6, 1.4, PLAIN.shape[1], dtype=np.float32)[:, None]
    assert looks_white([(clean + noise(25) * clean, clean)])


@pytest.mark.parametrize(
    "other",
    [
        noise(1),  # too faint to tell
        smoothed(noise(25)),
        np.repeat(noise(25)[..., :1], 3, axis=-1),  # of all channels
        noise(25) @ np.float32([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]),
        noise(25) * np.linspace(0.1, 1, PLAIN.shape[1], dtype=np.float32)[:, None],
    ],
    ids=["faint", "neighbours", "gray", "channels", "uneven"],
)
def test_other_noise_does_not(other):
    clean = PLAIN * np.linspace(0.9, 1.1, PLAIN.shape[1], dtype=np.float32)[:, None]
    assert not looks_white([(clean + other, clean)])


def test_of_clipped_noise_only_the_rest_counts():
    white = np.clip(1 + noise(25), 0, 1)
    assert not looks_white([(white, np.ones_like(white))])
    half = np.where(np.arange(192)[:, None, None] < 96, white, PLAIN + noise(25))
    clean = np.where(np.arange(192)[:, None, None] < 96, 1, PLAIN)
    assert looks_white([(half, clean)])


def test_a_specialist_that_leaves_noise_is_not_asked():
    noisy = PLAIN + noise(25)
    parts = parts_of([(noisy, PLAIN)])
    assert leaves_no_noise(parts, lambda x: np.full_like(x, 0.5))
    assert not leaves_no_noise(parts, lambda x: 0.8 * x + 0.1)
    assert not leaves_no_noise([(np.ones_like(noisy), PLAIN)], lambda x: x)


def test_texture_that_a_specialist_keeps_is_no_noise():
    texture = smoothed(smoothed(noise(12, seed=1)))
    parts = [(PLAIN + texture + noise(25), PLAIN)]
    assert leaves_no_noise(parts, lambda x: PLAIN + texture)


def test_pictures_lower_than_a_block():
    """Nothing can be told of them, and nothing fails."""
    strip = np.random.default_rng(0).random((8, 4000, 3), np.float32)
    assert not looks_white([(strip, strip)])
    assert not leaves_no_noise([(strip, strip)], lambda x: x)


def test_parts():
    whole = np.zeros((300, 500, 3), np.float32)
    shapes = {noisy.shape for noisy, _ in parts_of([(whole, whole)])}
    assert shapes == {(128, 128, 3)}
    assert len(parts_of([(whole, whole)])) == len(parts_of([(whole[:128], whole[:128])] * 16)) == 4
    assert len(parts_of([(whole[:128, :128], whole[:128, :128])])) == 1


@pytest.mark.parametrize(
    ("clean", "name", "held"),
    [
        pytest.param(SPICES, "color", True, id="color-held"),
        pytest.param(SPICES, "color", False, id="color-by parts", marks=pytest.mark.slow),
        pytest.param(GRAY, "gray", True, id="gray-held", marks=pytest.mark.slow),
        pytest.param(GRAY, "gray", False, id="gray-by parts"),
    ],
)
def test_photo_hands_white_noise_over(photo, clean, name, held, monkeypatch):
    if not held:  # as a picture of many megapixels is
        monkeypatch.setattr(whole_or_tiles, "_HELD", 0)
    noisy = clean + noise(25, clean.shape)
    taken = []
    result = photo(noisy, handed_to=taken.append)
    assert taken == [name]
    specialist = sa_flax.Denoiser.from_pretrained(name)
    np.testing.assert_allclose(result, specialist(noisy, declip=True), atol=1e-6)
    assert np.abs(result - specialist(noisy)).max() < 0.02


def test_over_several_devices(photo):
    noisy, taken = SPICES + noise(25, SPICES.shape), []
    split = sa_flax.Denoiser.from_pretrained("photo", devices=2)
    result = split(noisy, handed_to=taken.append)
    assert taken == ["color"]
    np.testing.assert_allclose(result, photo(noisy), atol=4e-6)


def test_three_equal_channels_are_a_gray_picture(photo):
    gray, taken = GRAY + noise(25, GRAY.shape), []
    batch = np.stack([np.repeat(gray, 3, axis=-1), SPICES + noise(25, SPICES.shape)])
    result = photo(batch, handed_to=taken.append)
    assert taken == ["gray", "color"]
    np.testing.assert_array_equal(result[0], np.repeat(photo(gray), 3, axis=-1))
    np.testing.assert_array_equal(result[1], photo(batch[1]))


def test_strength_and_detail_hold_for_the_specialist(photo):
    noisy = SPICES + noise(25, SPICES.shape)
    options = {"strength": 0.5, "keep_detail": 0.7, "declip": False}
    specialist = sa_flax.Denoiser.from_pretrained("color")
    np.testing.assert_allclose(photo(noisy, **options), specialist(noisy, **options), atol=1e-6)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_pictures_of_files(photo, kind):
    top = np.iinfo(kind).max
    noisy = np.clip(0.5 * SPICES + 0.25 + noise(25, SPICES.shape), 0, 1)
    noisy = np.round(noisy * top).astype(kind)
    taken = []
    photo(noisy, handed_to=taken.append)
    assert taken == ["color"]


@pytest.mark.parametrize(
    "noisy",
    [
        SPICES,
        compressed(SPICES + noise(25, SPICES.shape)),
        SPICES + smoothed(smoothed(noise(25, SPICES.shape))),
        SPICES + noise(25, SPICES.shape)[..., :1],
        (SPICES + noise(25, SPICES.shape))[:100],  # too small to be sure
    ],
    ids=["clean", "jpeg", "blurred", "shared", "small"],
)
def test_photo_keeps_the_rest(photo, noisy):
    taken = []
    result = photo(noisy, handed_to=taken.append)
    assert not taken
    alone = sa_flax.Denoiser.from_pretrained("photo")
    alone.specialists = {}
    np.testing.assert_array_equal(result, alone(noisy))


def test_it_gains(photo):
    noisy = SPICES + noise(25, SPICES.shape)
    alone = sa_flax.Denoiser.from_pretrained("photo")
    alone.specialists = {}

    def psnr(denoiser):
        return -10 * np.log10(np.mean((denoiser(noisy) - SPICES) ** 2))

    assert psnr(photo) > psnr(alone) + 0.4


def test_other_parameters_hand_nothing_over(photo):
    other = photo.with_variables(photo.params)
    noisy, taken = SPICES + noise(25, SPICES.shape), []
    other(noisy, handed_to=taken.append)
    assert photo.specialists
    assert not other.specialists
    assert not taken


@pytest.mark.parametrize("named", [{"3": "colour"}, {"2": "color"}, ["color"], {"3": ["color"]}])
def test_only_shipped_networks_are_specialists(named, tmp_path):
    options = {"channels": 3, "width": 4, "levels": 2, "attention": "none", "attend": "both"}
    config = {"model": "attention_unet", "options": options, "specialists": named}
    sa_flax.save_pretrained(network("none", width=4, levels=2), tmp_path / "n", config=config)
    with pytest.raises(InputError, match="must name networks that come with sa_flax"):
        sa_flax.Denoiser.from_pretrained(tmp_path / "n")
