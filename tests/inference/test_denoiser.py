"""The denoiser: every kind of array in, the same kind out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax.errors import InputError
from sa_flax.training.network import network_of
from sa_flax.training.run_directory import read_config


class Halve(nnx.Module):
    """A network whose result is known: half of its input."""

    def __init__(self, channels: int, noise_level: bool = False):
        self.channels, self.noise_level = channels, noise_level

    def __call__(self, noisy, sigma=None):
        return noisy / 2 + (0 if sigma is None else sigma)


COLOR, GRAY = sa_flax.Denoiser(Halve(3)), sa_flax.Denoiser(Halve(1))


@pytest.mark.parametrize("denoiser", [COLOR, GRAY], ids=["color", "gray"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (2, 6, 5, 3), (2, 6, 5, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float16", "float64"])
def test_kinds(denoiser, shape, dtype):
    top = np.iinfo(dtype).max if dtype.startswith("uint") else 1
    noisy = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    clean = denoiser(noisy)
    assert isinstance(clean, np.ndarray)
    assert clean.dtype == noisy.dtype
    assert clean.shape == noisy.shape
    tolerance = 0.5 if dtype.startswith("uint") else 1e-3
    np.testing.assert_allclose(clean.astype(float), noisy.astype(float) / 2, atol=tolerance)


def test_jax_arrays_come_back_as_jax_arrays():
    clean = COLOR(jnp.ones((4, 4, 3), jnp.bfloat16))
    assert isinstance(clean, jax.Array)
    assert clean.dtype == jnp.bfloat16


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("denoiser", [COLOR, GRAY], ids=["color", "gray"])
def test_alpha_passes_through(denoiser, colours):
    noisy = np.random.default_rng(0).integers(0, 256, (6, 5, colours + 1), np.uint8)
    clean = denoiser(noisy)
    np.testing.assert_array_equal(clean[..., -1], noisy[..., -1])
    assert (np.abs(clean[..., :-1] - noisy[..., :-1] / 2) <= 0.51).all()


def test_results_are_clipped():
    twice = sa_flax.Denoiser(Halve(1, noise_level=True))
    assert twice(np.full((2, 2), 200, np.uint8), 0.9).max() == 255


def test_noise_level():
    conditioned = sa_flax.Denoiser(Halve(1, noise_level=True))
    np.testing.assert_allclose(conditioned(np.zeros((2, 2), np.float32), 0.25), 0.25)
    with pytest.raises(ValueError, match="needs the noise level"):
        conditioned(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="blind"):
        GRAY(np.zeros((2, 2), np.float32), 0.1)


@pytest.mark.parametrize(
    ("noisy", "error", "message"),
    [
        (np.zeros((4, 4), np.int32), TypeError, "uint8, uint16 or float"),
        (np.zeros(4, np.float32), ValueError, r"must be \(H, W\)"),
        (np.zeros((0, 4), np.float32), ValueError, r"must be \(H, W\)"),
        (np.zeros((3, 40, 50), np.float32), ValueError, "Move the channels to the end"),
        (np.full((4, 4), np.nan, np.float32), ValueError, "not finite"),
        (np.full((4, 4), 255, np.float32), ValueError, "Divide by 255"),
    ],
)
def test_errors(noisy, error, message):
    with pytest.raises(error, match=message):
        GRAY(noisy)


def test_networks_that_are_no_denoisers():
    with pytest.raises(TypeError, match="not a denoiser"):
        sa_flax.Denoiser(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_a_run_is_the_network_that_was_saved(run_directory):
    denoiser = sa_flax.Denoiser.from_pretrained(run_directory)
    noisy = np.random.default_rng(0).random((9, 7, 3)).astype(np.float32)
    saved = sa_flax.Denoiser(network_of(read_config(run_directory)))
    np.testing.assert_array_equal(denoiser(noisy), saved(noisy))


def test_a_directory_without_a_network(tmp_path):
    with pytest.raises(InputError, match="holds no trained network"):
        sa_flax.Denoiser.from_pretrained(tmp_path)
    (tmp_path / "starts.jsonl").touch()
    with pytest.raises(InputError, match="saved no network yet"):
        sa_flax.Denoiser.from_pretrained(tmp_path)


def test_a_window(run_directory):
    noisy = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)
    whole = sa_flax.Denoiser.from_pretrained(run_directory)(noisy)
    covering = sa_flax.Denoiser.from_pretrained(run_directory, window=(40, 40))(noisy)
    np.testing.assert_array_equal(covering, whole)
    small = sa_flax.Denoiser.from_pretrained(run_directory, window=(8, 8))(noisy)
    # Fresh gates depend on no statistics (their weights are 0): the same, by another computation.
    np.testing.assert_allclose(small, whole, atol=1e-5)
    with pytest.raises(TypeError, match="no statistics to take over a window"):
        sa_flax.Denoiser(Halve(3), window=(8, 8))
