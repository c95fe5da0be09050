"""Black and white under clipped noise."""

import numpy as np
import pytest

import sa_flax
from sa_flax.errors import InputError
from sa_flax.inference.clipping import REACH, mended
from tests.inference.test_rows_over_devices import network

SIGMA = 0.1
NOISE = np.random.default_rng(0).normal(0, SIGMA, (120, 140, 3)).astype(np.float32)
# Standard deviation of noise of SIGMA that is clipped in white.
KEPT = 0.584 * SIGMA


def of(value, *, noise=NOISE, clip=True, deviation=KEPT):
    """What is added to the best guess at a flat picture's noisy version: its local mean."""
    noisy = np.float32(value) + noise
    noisy = np.clip(noisy, 0, 1) if clip else noisy
    clean = np.full(noise.shape, noisy.mean(), np.float32)
    return clean, mended(noisy, clean, np.full((*noise.shape[:2], 1), deviation, np.float32))


@pytest.mark.parametrize("value", [1.0, 0.98])
def test_white_becomes_white_and_almost_white_stays_almost(value):
    clean, added = of(value)
    assert clean.mean() < value - 0.025
    assert np.clip(clean + added, 0, 1).mean() == pytest.approx(value, abs=0.008)


def test_white_that_is_not_quite_flat_becomes_white_in_the_mean():
    """What is beyond 1 is cut off, so that half of a result that is right on average is lost."""
    clean, added = of(1.0)
    ripple = np.random.default_rng(1).normal(0, 0.01, clean.shape)
    assert np.clip(clean + added + ripple, 0, 1).mean() > 1 - 0.003


def test_black_is_the_mirror_image():
    noisy = np.clip(1 + NOISE, 0, 1)
    clean = np.full(NOISE.shape, 0.96, np.float32)
    deviation = np.full((*NOISE.shape[:2], 1), KEPT, np.float32)
    np.testing.assert_allclose(
        mended(1 - noisy, 1 - clean, deviation), -mended(noisy, clean, deviation), atol=1e-6
    )
    assert mended(noisy, clean, deviation).mean() > 0.03


@pytest.mark.parametrize("value", [0.3, 0.5, 0.85])
def test_gray_is_left_alone(value):
    assert np.abs(of(value)[1]).max() < 1e-3


@pytest.mark.parametrize("value", [1.0, 0.98, 0.95])
def test_noise_that_was_not_clipped(value):
    """The mean is right as it is."""
    assert not of(value, clip=False, deviation=SIGMA)[1].any()


def test_a_picture_without_noise_is_left_alone():
    stripes = np.where(np.arange(140) % 4 < 2, 1.0, 0.9).astype(np.float32)
    picture = np.broadcast_to(stripes[:, None], NOISE.shape).copy()
    for deviation in (0.0, 0.001, 0.01):
        off = np.full((*NOISE.shape[:2], 1), deviation, np.float32)
        assert np.abs(mended(picture, picture, off)).max() < 1e-3


def test_it_looks_no_further_than_it_says():
    noisy = np.clip(1 + NOISE, 0, 1)
    clean = np.full(NOISE.shape, 0.96, np.float32)
    deviation = np.full((*NOISE.shape[:2], 1), KEPT, np.float32)
    changed = noisy.copy()
    changed[60, 70] = 0
    places = np.argwhere(mended(noisy, clean, deviation) != mended(changed, clean, deviation))
    assert REACH - 2 <= np.abs(places[:, :2] - (60, 70)).max() <= REACH


def test_a_networks_own_answer(tmp_path):
    model = network("none", width=4, levels=2)
    options = {"channels": 3, "width": 4, "levels": 2, "attention": "none", "attend": "both"}
    config = {"model": "attention_unet", "options": options}
    sa_flax.save_pretrained(model, tmp_path / "own", config={**config, "declip": True})
    own = sa_flax.Denoiser.from_pretrained(tmp_path / "own")
    assert own.declip
    assert not sa_flax.Denoiser(model).declip
    sa_flax.save_pretrained(model, tmp_path / "bad", config={**config, "declip": 1})
    with pytest.raises(InputError, match="must be true or false; got 1"):
        sa_flax.Denoiser.from_pretrained(tmp_path / "bad")


def test_the_shipped_network_has_white_whites():
    squares = np.indices((192, 192)) // 64
    clean = np.repeat(np.float32(squares.sum(0) % 2)[..., None], 3, axis=-1)
    noise = np.random.default_rng(1).normal(0, 25 / 255, clean.shape)
    noisy = np.round(255 * np.clip(clean + noise, 0, 1)).astype(np.uint8)
    denoiser = sa_flax.Denoiser.from_pretrained("photo")

    def off(**options):
        result = denoiser(noisy, **options).astype(float)
        return result[clean == 0].mean(), 255 - result[clean == 1].mean()

    assert max(off()) < 1.3  # gray levels
    assert max(off(declip=False)) > 3
