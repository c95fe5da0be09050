"""PSNR and SSIM against scikit-image's, under the settings that the docstrings name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sa_flax.functional import psnr, ssim
from tests.annotations import refuses


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
    with refuses("one shape"):
        psnr(jnp.zeros((4, 4, 1)), jnp.zeros((4, 5, 1)))
    with refuses("at least 11 x 11"):
        ssim(jnp.zeros((8, 8, 1)), jnp.zeros((8, 8, 1)))
    for sigma in (0.0, -1.0):
        with refuses("sigma, .* must be above 0"):
            ssim(jnp.zeros((20, 20, 1)), jnp.zeros((20, 20, 1)), sigma=sigma)


EIGHT_BITS = {"uint8": 255, "uint16": 65535}


@pytest.mark.parametrize("dtype", list(EIGHT_BITS))
def test_pictures_of_whole_numbers_are_compared_on_their_own_range(pair, dtype):
    """In their own dtype 3 - 5 is 254, and its square 4: the arithmetic must not be theirs."""
    white = EIGHT_BITS[dtype]
    whole = [np.round(x * white).astype(dtype) for x in pair]
    exact = [x.astype(np.float64) / white for x in whole]
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*exact, strict=True)]
    np.testing.assert_allclose(psnr(*whole), expected, rtol=1e-5)
    floats = [jnp.asarray(x, jnp.float32) for x in exact]
    np.testing.assert_allclose(ssim(*whole), ssim(*floats), rtol=1e-4)
    np.testing.assert_allclose(jax.jit(psnr)(*map(jnp.asarray, whole)), expected, rtol=1e-5)
    # A range that is given is the range of whatever comes; it need not be known when compiling.
    ranged = jax.jit(lambda a, b, white: psnr(a, b, data_range=white))
    np.testing.assert_allclose(ranged(*map(jnp.asarray, whole), white), expected, rtol=1e-5)
    np.testing.assert_allclose(
        psnr(whole[0], 1.0 * whole[1], data_range=white), expected, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_compared_in_float32(dtype):
    """The square of a difference of 1e-4 is nothing in float16."""
    a = jnp.full((16, 16, 1), 0.5, dtype)
    step = float(jnp.finfo(dtype).eps) / 2  # the spacing of numbers at 0.5
    b = a + jnp.asarray(step, dtype)
    assert psnr(a, b).dtype == jnp.float32
    np.testing.assert_allclose(psnr(a, b), -20 * np.log10(step), rtol=1e-5)
    assert 0.9 < ssim(a, b) <= 1


def test_float64_stays_float64():
    with jax.enable_x64(True):
        a, b = jnp.zeros((12, 12, 1)), jnp.full((12, 12, 1), 1e-9)
        assert psnr(a, b) == pytest.approx(180, abs=1e-9)
        assert ssim(a, b).dtype == jnp.float64


@pytest.mark.parametrize("dtypes", [("uint8", "float32"), ("uint8", "uint16"), ("int32", "int32")])
def test_ranges_that_cannot_be_told_are_refused(dtypes):
    pictures = [np.zeros((16, 16, 1), dtype) for dtype in dtypes]
    for measure in (psnr, ssim):
        with refuses(rf"{dtypes[0]} and {dtypes[1]}.*data_range"):
            measure(*pictures)


@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_what_is_no_picture_is_refused(dtype):
    pictures = [np.zeros((16, 16, 1), dtype)] * 2
    with refuses(f"real numbers; got {dtype}"):
        psnr(*pictures)
