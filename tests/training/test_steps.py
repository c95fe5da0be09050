"""The training step: noise by step, losses, the average, several devices, signs of trouble."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sa_flax.config import Config, DataConfig, ModelConfig, OptimizerConfig
from sa_flax.errors import DivergedError
from sa_flax.training.monitor import Monitor
from sa_flax.training.state import (
    create_state,
    learning_rate,
    learning_rate_schedule,
    make_optimizer,
)
from sa_flax.training.steps import make_train_step, reconstruction_loss
from tests.slow import some_slow

CONFIG = Config(
    model=ModelConfig(width=4, levels=2, channels=1),
    data=DataConfig(batch_size=8, crop=16),
    optimizer=OptimizerConfig(warmup_steps=2, ema_decay=0.5),
    steps=10,
)


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    return {"clean": np.random.default_rng(seed).integers(0, 256, (8, 16, 16, 1), np.uint8)}


def test_the_average_follows_the_parameters():
    optimizer = make_optimizer(CONFIG.optimizer, CONFIG.steps)
    graphdef, state = create_state(CONFIG, optimizer)
    before = jax.device_get(state)
    after, metrics = make_train_step(graphdef, optimizer, CONFIG)(state, batch(), jax.random.key(0))
    assert int(after.step) == 1
    assert set(metrics) == {"loss", "psnr", "grad_norm", "learning_rate", "skipped"}
    decay = min(CONFIG.optimizer.ema_decay, 1 / 10)
    for old, new, ema in zip(
        *(jax.tree.leaves(t) for t in (before.params, after.params, after.ema)), strict=True
    ):
        np.testing.assert_allclose(ema, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7)


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
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    step = make_train_step(graphdef, optimizer, config)
    for i in range(2):
        state, metrics = step(state, batch(i), jax.random.key(0))
        assert np.isfinite(metrics["loss"])
    for tree in (state.params, state.ema):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("l1", 0.2),
        ("l2", 0.04),
        ("charbonnier", (0.04 + 1e-6) ** 0.5),
        ("log_mse", np.log(0.04 + 5e-5)),
        ("weighted_mse", 0.04 / (0.1**2 + (2 / 255) ** 2) ** 0.5),
    ],
)
def test_losses(kind, value):
    clean = jnp.full((1, 4, 4, 1), 0.5)
    loss = reconstruction_loss(clean + 0.2, clean, clean - 0.1, kind)
    np.testing.assert_allclose(loss, value, rtol=1e-5)


def test_log_mse_is_a_mean_of_decibels():
    """Each picture counts by its own PSNR, however large the error of another."""
    clean = jnp.zeros((2, 4, 4, 1))
    denoised = clean + jnp.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    expected = np.mean(np.log(np.array([0.01, 0.0001]) + 5e-5))
    loss = reconstruction_loss(denoised, clean, clean, "log_mse")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_weighted_mse_is_of_each_picture_by_its_own_noise():
    clean = jnp.zeros((2, 4, 4, 1))
    noise, left = (jnp.array(x).reshape(2, 1, 1, 1) for x in ([0.2, 0.05], [0.1, 0.01]))
    expected = np.mean([0.1**2 / np.hypot(0.2, 2 / 255), 0.01**2 / np.hypot(0.05, 2 / 255)])
    loss = reconstruction_loss(clean - left, clean, clean + noise, "weighted_mse")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_schedule():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.01)
    schedule = learning_rate_schedule(config, 100)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 5, 10, 55, 100)], [0, 0.5, 1, 0.505, 0.01], rtol=1e-5
    )
    # A run shorter than the warm-up still reaches the highest rate.
    assert float(learning_rate_schedule(config, 4)(2)) == 1


def test_a_schedule_that_can_be_extended():
    config = OptimizerConfig(
        learning_rate=1.0, warmup_steps=10, final_fraction=0.1, schedule="wsd", decay_share=0.2
    )
    schedule, longer = (learning_rate_schedule(config, steps) for steps in (100, 1000))
    rates = [schedule(step) for step in (0, 5, 10, 50, 80, 90, 100, 200)]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 1, 1, 0.55, 0.1, 0.1], rtol=1e-6)
    before = [longer(step) for step in (0, 5, 10, 50, 80)]
    np.testing.assert_allclose(before, rates[:5], rtol=1e-6)
    for share, expected in ((0.0, [1, 1]), (1.0, [1, 0.55])):
        all_of_it = dataclasses.replace(config, decay_share=share)
        schedule = learning_rate_schedule(all_of_it, 100)
        np.testing.assert_allclose([schedule(10), schedule(55)], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", some_slow(["adamw", "muon"], "adamw"))
def test_the_rate_that_is_logged_is_the_one_that_is_used(kind):
    config = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, kind=kind))
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    step = make_train_step(graphdef, optimizer, config)
    schedule = learning_rate_schedule(config.optimizer, config.steps)
    for number in range(3):
        state, metrics = step(state, batch(number), jax.random.key(0))
        np.testing.assert_allclose(metrics["learning_rate"], schedule(number), rtol=1e-6)
    np.testing.assert_allclose(learning_rate(config.optimizer, config.steps, state), schedule(3))


def test_muon_moves_kernels_alike_in_all_directions():
    """However different the gradient's singular values are; all else moves as Adam moves it."""
    config = OptimizerConfig(
        kind="muon", learning_rate=0.01, warmup_steps=0, weight_decay=0.0, clip_norm=1e9
    )
    random = np.random.default_rng(0)
    u, _, v = np.linalg.svd(random.standard_normal((72, 16)), full_matrices=False)
    gradient = {
        "features": (u * np.geomspace(1, 0.05, 16)) @ v,
        "pixels": random.standard_normal((72, 3)),
        "single": random.standard_normal((9, 1, 16)),
        "bias": random.standard_normal(16),
    }
    gradient["features"] = gradient["features"].reshape(3, 3, 8, 16)
    gradient = jax.tree.map(jnp.float32, gradient)
    optimizer = make_optimizer(config, 10)
    with jax.numpy_dtype_promotion("standard"):
        step, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    matrix = -np.asarray(step["features"]).reshape(72, 16)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values.max() < 2 * values.min()
    assert (np.diag(u.T @ matrix @ v.T) > 0.9 * values.min()).all(), "other directions"
    assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.2 * 0.01, rel=0.2)
    for name in ("pixels", "single", "bias"):
        np.testing.assert_array_equal(np.sign(step[name]), -np.sign(gradient[name]))
        np.testing.assert_allclose(np.abs(step[name]), np.abs(step[name]).max(), rtol=1e-3)


def test_only_kernels_decay():
    optimizer = optax.chain(make_optimizer(OptimizerConfig(warmup_steps=0, weight_decay=0.1), 10))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    # Optax takes powers of whole numbers, which the training step allows it alone.
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert (updates["kernel"] < 0).all()
    np.testing.assert_array_equal(updates["bias"], 0)


def test_an_update_that_is_not_finite_changes_nothing_but_the_step():
    optimizer = make_optimizer(CONFIG.optimizer, CONFIG.steps)
    graphdef, state = create_state(CONFIG, optimizer)
    step = make_train_step(graphdef, optimizer, CONFIG)
    state, metrics = step(state, batch(), jax.random.key(0))
    assert metrics["skipped"] == 0
    # A bias that is infinite makes the loss so; the rest of the state must stay as it is.
    state.params["tail"]["bias"][...] = jnp.array([jnp.inf])
    before = jax.device_get(state)
    after, metrics = step(state, batch(), jax.random.key(0))
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["loss"])
    assert int(after.step) == int(before.step) + 1
    jax.tree.map(np.testing.assert_array_equal, after._replace(step=before.step), before)


def as_metrics(losses: list[float]) -> list[dict[str, jax.Array]]:
    return [
        {
            "loss": jnp.float32(x),
            "grad_norm": jnp.float32(1),
            "learning_rate": jnp.float32(number + 1),
            "skipped": jnp.int32(x != x),
        }
        for number, x in enumerate(losses)
    ]


def test_skipped_updates_are_counted_and_left_out_of_the_means():
    monitor = Monitor(3)
    nan = float("nan")
    means = monitor.means(as_metrics([0.1, nan, 0.3]), last_step=3)
    last = {"learning_rate": 3, "skipped": 1}
    assert means == {"loss": pytest.approx(0.2), "grad_norm": 1} | last
    last = {"learning_rate": 2, "skipped": 2}
    assert monitor.means(as_metrics([nan, nan]), last_step=5) == last
    assert monitor.skipped == 3


def test_too_many_skipped_in_a_row_stop_the_run():
    monitor = Monitor(3)
    nan = float("nan")
    monitor.means(as_metrics([nan, nan, 0.1, nan]), last_step=4)
    with pytest.raises(DivergedError, match=r"3 times .*step 6 .*--optimizer.learning-rate"):
        monitor.means(as_metrics([nan, nan, nan, 0.1]), last_step=8)
