"""The denoiser: every kind of array in, the same kind out."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import sa_flax
from sa_flax.errors import InputError
from sa_flax.models.saved import model_leaves
from sa_flax.training.network import network_of
from sa_flax.training.run_directory import read_config
from tests.annotations import refuses


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


def test_jax_arrays_come_back_on_the_device_that_they_were_on():
    other = jax.device_put(jnp.ones((4, 4, 3)), jax.devices()[3])
    assert COLOR(other).devices() == other.devices()
    spread = jax.device_put(
        jnp.ones((4, 4, 4, 3)),
        NamedSharding(jax.make_mesh((2,), ("batch",)), PartitionSpec("batch")),
    )
    assert COLOR(spread).sharding == spread.sharding
    # What is bound to no device stays so, and can be combined with what is.
    assert (COLOR(jnp.ones((4, 4, 3))) + other).devices() == other.devices()


def test_a_denoiser_can_be_pickled():
    model = sa_flax.create_model("attention_unet", width=4, levels=2, rngs=nnx.Rngs(0))
    denoiser = sa_flax.Denoiser(model, window=(8, 8), devices=2, memory="1GB")
    denoiser.keep_detail, denoiser.specialists = 0.5, {1: "gray"}
    noisy = np.random.default_rng(0).random((40, 30, 3), np.float32)
    expected = denoiser(noisy)  # compiled, which can't be pickled
    again = pickle.loads(pickle.dumps(denoiser))
    np.testing.assert_array_equal(again(noisy), expected)
    assert (again.keep_detail, again.specialists) == (0.5, {1: "gray"})
    assert copy.copy(denoiser)._engine is denoiser._engine, "a copy need not be compiled anew"


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


@pytest.mark.parametrize("wrong", [25, -0.1, np.nan, np.array([0.1, 0.2])])
def test_noise_levels_on_another_scale(jax_defaults, wrong):
    conditioned = sa_flax.Denoiser(Halve(1, noise_level=True))
    with pytest.raises(ValueError, match=r"25 of 255 is 0.098"):
        conditioned(np.zeros((2, 2, 2, 1), np.float32), wrong)


def test_any_byte_order():
    noisy = (np.random.default_rng(0).random((6, 5, 3)) * 65535).astype(np.uint16)
    for order in ("<u2", ">u2"):
        clean = COLOR(noisy.astype(order))
        assert clean.dtype == np.dtype(order)
        np.testing.assert_array_equal(clean, COLOR(noisy))
    single = noisy.astype(">f4") / 65535
    np.testing.assert_array_equal(COLOR(single), COLOR(single.astype("<f4")))


NOISE = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


@pytest.mark.parametrize(
    "fine",
    [
        0.5 + 0.2 * NOISE,
        2 * NOISE,  # the largest level that commands take, over black
        1 + 2 * NOISE,  # and over white
        np.full((4, 4), 1.9, np.float32),  # somewhat too bright
        np.full((4, 4), 1.0, np.float32),
        np.zeros((4, 4), np.float32),
    ],
)
def test_noise_may_leave_the_range(fine):
    clean = GRAY(fine.astype(np.float32))
    np.testing.assert_allclose(clean, np.clip(fine / 2, 0, 1), atol=1e-6)


def test_a_network_as_a_pure_function():
    denoiser = sa_flax.Denoiser(Halve(3, noise_level=True))
    model = sa_flax.create_model(
        "attention_unet", width=4, levels=2, attention="shuffle", rngs=nnx.Rngs(0)
    )
    unet = sa_flax.Denoiser(model)
    x = jnp.asarray(np.random.default_rng(0).random((2, 9, 7, 3)), jnp.float32)
    # Nothing is clipped.
    assert denoiser.apply(denoiser.params, x, 3.0).min() >= 3
    plain = model(x)
    apply = unet.apply
    np.testing.assert_allclose(apply(unet.params, x), plain, atol=1e-6)
    np.testing.assert_allclose(unet.model(x), plain, atol=1e-6)
    np.testing.assert_allclose(apply(unet.params, x[0]), plain[0], atol=1e-5)
    np.testing.assert_allclose(jax.jit(apply)(unet.params, x), plain, atol=1e-5)
    mapped = jax.vmap(apply, in_axes=(None, 0))(unet.params, x)
    np.testing.assert_allclose(mapped, plain, atol=1e-5)
    _, out = jax.lax.scan(lambda carry, one: (carry, apply(unet.params, one)), 0, x)
    np.testing.assert_allclose(out, plain, atol=1e-5)
    y, tangent = jax.jvp(lambda x: apply(unet.params, x), (x,), (jnp.ones_like(x),))
    assert tangent.shape == y.shape == x.shape
    gradients = jax.grad(lambda p: jnp.sum(jnp.square(apply(p, x))))(unet.params)
    assert jax.tree.structure(gradients) == jax.tree.structure(unet.params)
    assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradients))
    with pytest.raises(ValueError, match="needs the noise level"):
        denoiser.apply(denoiser.params, x)


def test_tracing_the_denoiser_itself_says_what_to_call():
    with pytest.raises(TypeError, match=r"jax.jit\(denoiser.apply\)\(denoiser.params, noisy\)"):
        jax.jit(GRAY)(jnp.zeros((4, 4)))


@pytest.mark.parametrize("memory", ["2GB", "1.5 GiB", "900m", 10**9])
def test_memory_as_people_write_it(memory):
    assert sa_flax.Denoiser(Halve(1), memory=memory)(np.zeros((2, 2), np.uint8)).shape == (2, 2)


@pytest.mark.parametrize("memory", ["lots", "-1GB", "", "10", 0, 1.5, True])
def test_memory_that_is_none(memory):
    with refuses("memory must be", InputError):
        sa_flax.Denoiser(Halve(1), memory=memory)


@pytest.mark.parametrize(
    ("noisy", "error", "message"),
    [
        (np.zeros((4, 4), np.int32), TypeError, "uint8, uint16 or float"),
        (np.zeros(4, np.float32), ValueError, r"must be \(H, W\)"),
        (np.zeros((0, 4), np.float32), ValueError, r"must be \(H, W\)"),
        (np.zeros((3, 40, 50), np.float32), ValueError, "Move the channels to the end"),
        (np.full((4, 4), np.nan, np.float32), ValueError, "not finite"),
        (np.full((4, 4), 255, np.float32), ValueError, "Divide by 255"),
        (np.linspace(0, 12, 16, dtype=np.float32).reshape(4, 4), ValueError, "Divide by 255"),
        (np.array([[0, 1, 2, 0]], np.float32), ValueError, "Divide by 255"),
        (np.full((4, 4), -3, np.float16), ValueError, "move and scale it"),
        (np.linspace(-128, 127, 16).reshape(4, 4), ValueError, r"goes from -128 to 127.*move"),
        # Within what noise reaches, but not around a picture.
        (np.linspace(-1, 0.2, 900).reshape(30, 30), ValueError, r"\(x \+ 1\) / 2"),
        (np.linspace(1.2, 1.9, 900).reshape(30, 30), ValueError, "goes from 1.2 to 1.9"),
    ],
)
def test_errors(noisy, error, message):
    with pytest.raises(error, match=message):
        GRAY(noisy)


@pytest.mark.parametrize("level", [0, 0.5, 1])
@pytest.mark.parametrize("size", [3, 16])
def test_noise_takes_means_out_of_the_range(level, size):
    white = np.random.default_rng(0).normal(level, 0.4, (size, size))
    # Of noise that neighbours share the mean deviates more.
    for noisy in (white, np.kron(white, np.ones((4, 4)))):
        assert GRAY(noisy).shape == noisy.shape


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


def test_a_model_in_training_stays_so_and_shares_what_it_learns():
    model = sa_flax.create_model("dncnn", channels=1, depth=4, width=4, rngs=nnx.Rngs(0))
    model.train()
    denoiser = sa_flax.Denoiser(model)
    snapshot = sa_flax.Denoiser(nnx.clone(model))
    noisy = np.random.default_rng(0).random((9, 7)).astype(np.float32)
    before, mean = denoiser(noisy), model.norms[0].mean[...]
    model(jnp.asarray(noisy)[None, ..., None])
    assert np.abs(model.norms[0].mean[...] - mean).max() > 0, "batch norm still learns"
    model.convs[0].kernel[...] = 0 * model.convs[0].kernel[...]
    assert np.abs(denoiser(noisy) - before).max() > 0
    np.testing.assert_array_equal(snapshot(noisy), before)


def test_a_window(run_directory):
    noisy = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)
    whole = sa_flax.Denoiser.from_pretrained(run_directory)(noisy)
    covering = sa_flax.Denoiser.from_pretrained(run_directory, window=(40, 40))(noisy)
    np.testing.assert_allclose(covering, whole, atol=2e-7)  # on a canvas of another size
    small = sa_flax.Denoiser.from_pretrained(run_directory, window=(8, 8))(noisy)
    # Fresh gates depend on no statistics (their weights are 0): the same, by another computation.
    np.testing.assert_allclose(small, whole, atol=1e-5)
    with pytest.raises(TypeError, match="no statistics to take over a window"):
        sa_flax.Denoiser(Halve(3), window=(8, 8))


def test_a_network_says_which_window_it_wants(tmp_path):
    rng = np.random.default_rng(0)
    noisy = rng.random((48, 40, 3)).astype(np.float32)
    options = {"width": 8, "levels": 2, "attention": "squeeze_excite"}
    model = sa_flax.create_model("attention_unet", **options, rngs=nnx.Rngs(0))
    for leaf in model_leaves(model).values():  # fresh gates would depend on no statistics
        leaf.set_value(leaf.get_value() + jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32))
    config = {"model": "attention_unet", "options": options, "window": [16, 8]}
    sa_flax.save_pretrained(model, tmp_path / "own", config=config)
    own = sa_flax.Denoiser.from_pretrained(tmp_path / "own")
    asked = sa_flax.Denoiser(model, window=(16, 8))(noisy)
    np.testing.assert_array_equal(own(noisy), asked)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(own))(noisy), asked)
    other = sa_flax.Denoiser.from_pretrained(tmp_path / "own", window=(48, 48))(noisy)
    np.testing.assert_array_equal(other, sa_flax.Denoiser(model, window=(48, 48))(noisy))
    assert np.abs(other - asked).max() > 1e-4
    sa_flax.save_pretrained(model, tmp_path / "bad", config={**config, "window": 16})
    with pytest.raises(InputError, match=r'"window" .* \[height, width\].* got 16'):
        sa_flax.Denoiser.from_pretrained(tmp_path / "bad")
