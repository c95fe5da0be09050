"""One picture over eight simulated devices: the same result, an eighth of the memory."""

import jax
import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax.errors import InputError
from tests.slow import some_slow


def network(kind: str, **options) -> nnx.Module:
    """A U-Net whose gates do something: every parameter is moved from where it starts."""
    options = {"channels": 3, "width": 8, "levels": 3, "attend": "both"} | options
    model = sa_flax.create_model("attention_unet", attention=kind, rngs=nnx.Rngs(0), **options)
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    state = nnx.state(model, nnx.Param)
    moved = jax.tree.map(
        lambda p: p + (0.5 if p.ndim == 1 else 0.02) * jax.random.normal(next(keys), p.shape), state
    )
    nnx.update(model, moved)
    return model


def picture(height: int = 64, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3), np.float32)


@pytest.mark.parametrize(
    "kind",
    some_slow(["none", *sa_flax.list_attentions()], "none", "shuffle", "cbam", "non_local"),
)
def test_the_same_as_on_one_device(kind):
    model = network(kind)
    one, eight = sa_flax.Denoiser(model)(picture()), sa_flax.Denoiser(model, devices=8)(picture())
    # float32, sums over positions in another order; results are of order 1.
    np.testing.assert_allclose(eight, one, atol=1e-5)
    assert np.mean((one > 0) & (one < 1)) > 0.2, "clipped: nothing is compared"


def test_the_mean_over_flips_is_taken_there_too():
    model = network("shuffle")
    one, eight = sa_flax.Denoiser(model), sa_flax.Denoiser(model, devices=8)
    square = picture(64, 64)
    mean = one(square, self_ensemble=True)
    assert np.abs(mean - one(square)).max() > 1e-3
    np.testing.assert_allclose(eight(square, self_ensemble=True), mean, atol=1e-5)


def test_other_sizes_windows_and_networks():
    model = network("shuffle")
    small = sa_flax.Denoiser(model, window=(8, 8))(picture())
    np.testing.assert_allclose(
        sa_flax.Denoiser(model, window=(8, 8), devices=4)(picture()), small, atol=1e-5
    )
    # A height that does not divide: rows are mirrored, which moves attention's statistics a little.
    noisy = picture(250, 20)
    one, eight = sa_flax.Denoiser(model)(noisy), sa_flax.Denoiser(model, devices=8)(noisy)
    assert eight.shape == noisy.shape
    assert np.abs(one - eight).mean() < 0.01
    dncnn = sa_flax.create_model("dncnn", channels=3, depth=4, width=8, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(
        sa_flax.Denoiser(dncnn, devices=8)(noisy)[:200],
        sa_flax.Denoiser(dncnn)(noisy)[:200],
        atol=1e-5,
    )
    assert sa_flax.Denoiser(dncnn, devices=8)(np.zeros((3, 5), np.uint16)).shape == (3, 5)


def test_each_device_holds_its_rows_alone():
    model = network("shuffle", width=8, levels=2)

    def bytes_of(devices: int) -> int:
        memory = sa_flax.Denoiser(model, devices=devices).compile(512, 128).memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    # The rows exchanged at the edges, one or two of 64 to each side, come on top.
    assert bytes_of(8) < 1.3 * bytes_of(1) / 8


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match="over 9 devices: this process has 8"):
        sa_flax.Denoiser(network("none"), devices=9)
