"""The training step: noise by step, losses, the average, several devices, signs of trouble."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from sa_flax.config import Config, DataConfig, ModelConfig, NoiseConfig, OptimizerConfig
from sa_flax.errors import DivergedError, InputError
from sa_flax.training import run, sharding
from sa_flax.training.state import create_state, learning_rate_schedule, make_optimizer
from sa_flax.training.steps import corrupt, make_train_step, reconstruction_loss

CONFIG = Config(
    model=ModelConfig(width=4, levels=2, channels=1),
    data=DataConfig(batch_size=8, crop=16),
    optimizer=OptimizerConfig(warmup_steps=2, ema_decay=0.5),
    steps=10,
)


def batch(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 16, 16, 1), np.uint8)


def train(config: Config, devices: int, steps: int = 3):
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    state = sharding.replicate(state, mesh)
    step = make_train_step(graphdef, optimizer, config)
    losses = []
    for i in range(steps):
        state, metrics = step(state, sharding.place_batch(batch(i), mesh), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return jax.device_get(state), losses


def test_several_devices_train_as_one():
    one, one_losses = train(CONFIG, 1)
    eight, eight_losses = train(CONFIG, 8)
    # Sums over the batch in another order: a few float32 roundings, which Adam's division by the
    # root of a tiny second moment can enlarge.
    np.testing.assert_allclose(eight_losses, one_losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_batch_that_cannot_be_split():
    with pytest.raises(InputError, match="use a multiple of 8"):
        sharding.check_batch(12, sharding.data_mesh())


def test_the_average_follows_the_parameters():
    optimizer = make_optimizer(CONFIG.optimizer, CONFIG.steps)
    graphdef, state = create_state(CONFIG, optimizer)
    before = jax.device_get(state)
    after, metrics = make_train_step(graphdef, optimizer, CONFIG)(state, batch(), jax.random.key(0))
    assert int(after.step) == 1
    assert set(metrics) == {"loss", "psnr", "grad_norm"}
    decay = min(CONFIG.optimizer.ema_decay, 1 / 10)
    for old, new, ema in zip(
        *(jax.tree.leaves(t) for t in (before.params, after.params, after.ema)), strict=True
    ):
        np.testing.assert_allclose(ema, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7)


def test_noise_models():
    clean = jnp.full((4, 32, 32, 1), 0.5)
    key = jax.random.key(0)
    noisy, sigma = corrupt(key, clean, NoiseConfig(kind="blind", sigma_range=(10, 50)))
    assert sigma.shape == (4,)
    np.testing.assert_allclose(jnp.std(noisy - clean, axis=(1, 2, 3)), sigma, rtol=0.1)
    assert ((sigma >= 10 / 255) & (sigma <= 50 / 255)).all()
    noisy, sigma = corrupt(key, clean, NoiseConfig(kind="gaussian", sigma=25))
    np.testing.assert_allclose(sigma, 25 / 255, rtol=1e-6)
    np.testing.assert_allclose(jnp.std(noisy), 25 / 255, rtol=0.1)
    noisy, sigma = corrupt(key, clean, NoiseConfig(kind="poisson_gaussian", gain=4, read_noise=3))
    assert sigma is None
    np.testing.assert_allclose(jnp.var(noisy), 4 / 255 * 0.5 + (3 / 255) ** 2, rtol=0.1)


def test_every_step_draws_its_own_noise():
    """A zero learning rate: the loss then changes through the noise alone."""
    still = dataclasses.replace(
        CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, learning_rate=1e-30)
    )
    optimizer = make_optimizer(still.optimizer, still.steps)
    graphdef, state = create_state(still, optimizer)
    step = make_train_step(graphdef, optimizer, still)
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch(), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3


def test_conditioning_and_bfloat16_train():
    config = dataclasses.replace(
        CONFIG, dtype="bfloat16", model=dataclasses.replace(CONFIG.model, noise_level=True)
    )
    state, losses = train(config, 1, steps=2)
    assert np.isfinite(losses).all()
    for tree in (state.params, state.ema):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("kind", "value"), [("l1", 0.2), ("l2", 0.04), ("charbonnier", (0.04 + 1e-6) ** 0.5)]
)
def test_losses(kind, value):
    clean = jnp.full((1, 4, 4, 1), 0.5)
    np.testing.assert_allclose(reconstruction_loss(clean + 0.2, clean, kind), value, rtol=1e-5)


def test_schedule():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.01)
    schedule = learning_rate_schedule(config, 100)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 5, 10, 55, 100)], [0, 0.5, 1, 0.505, 0.01], rtol=1e-5
    )
    # A run shorter than the warm-up still reaches the highest rate.
    assert float(learning_rate_schedule(config, 4)(2)) == 1


def test_only_kernels_decay():
    optimizer = optax.chain(make_optimizer(OptimizerConfig(warmup_steps=0, weight_decay=0.1), 10))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert (updates["kernel"] < 0).all()
    np.testing.assert_array_equal(updates["bias"], 0)


def test_a_loss_that_is_not_finite_names_the_step():
    good = {"loss": jnp.float32(0.1), "grad_norm": jnp.float32(1)}
    bad = {"loss": jnp.float32(jnp.nan), "grad_norm": jnp.float32(1)}
    assert run.fetch_means([good, good], last_step=8)["loss"] == pytest.approx(0.1)
    with pytest.raises(DivergedError, match=r"step 9 .*--optimizer.learning-rate"):
        run.fetch_means([good, bad, good], last_step=10)
