"""Strength, texture put back, and the mean over flips: what is done around a network."""

import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax.inference.finish import REACH, Finish, luminance_noise, texture
from tests.inference.test_denoiser import Halve
from tests.inference.test_rows_over_devices import network
from tests.inference.test_tiling import in_tiles_of, picture

NOISE = np.random.default_rng(0).normal(0, 0.1, (128, 160, 3)).astype(np.float32)


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


def test_noise_is_no_texture_and_texture_is():
    flat = np.full(NOISE.shape, 0.5, np.float32)
    sigma = luminance_noise(flat + NOISE)
    np.testing.assert_allclose(sigma, 0.1 / np.sqrt(3), rtol=0.05)
    assert np.abs(texture(flat + NOISE, flat, sigma)).mean() < 0.02 * sigma
    x = np.broadcast_to(np.arange(160), (128, 160))
    hair = np.where(x % 16 == 0, 0.4, 0)[..., None].astype(np.float32)
    found = texture(flat + NOISE + hair, flat, sigma)[..., 0]
    lines = found[:, ::16].mean() - found[:, 8::16].mean()
    assert lines > 0.15, "the lines that were smoothed away don't come back"


def test_detail_comes_back_by_as_much_as_is_asked_for():
    noisy = picture(60, 50)
    clean = noisy / 2
    sigma = 0.01
    kept = texture(noisy, clean, sigma)
    for amount in (0.5, 1.0):
        result = Finish(keep_detail=amount, sigma=sigma)(noisy, clean)
        np.testing.assert_allclose(result, clean + np.float32(amount) * kept, atol=1e-6)


def test_texture_looks_no_further_than_it_says():
    noisy, clean = picture(101, 101), np.zeros((101, 101, 3), np.float32)
    changed = noisy.copy()
    changed[50, 50] += 0.3
    places = np.argwhere(texture(noisy, clean, 0.001) != texture(changed, clean, 0.001))[:, :2]
    assert 2 < np.abs(places - 50).max() <= REACH


def test_in_tiles_as_whole(monkeypatch):
    denoiser = sa_flax.Denoiser(network("none", width=4, levels=2))
    noisy = picture(120, 90)
    options = {"strength": 0.7, "keep_detail": 0.8, "self_ensemble": True}
    whole = denoiser(noisy, **options)
    in_tiles_of(96, monkeypatch=monkeypatch)
    again = sa_flax.Denoiser(denoiser.model)(noisy, **options)
    np.testing.assert_allclose(again, whole, atol=2e-6)


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
