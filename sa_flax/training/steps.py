"""One training step: a pure function of (state, batch, key), jitted once, its state donated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sa_flax.config import Config, NoiseConfig
from sa_flax.functional.image_quality import psnr
from sa_flax.functional.noise import gaussian_noise, poisson_gaussian_noise, uniform_levels
from sa_flax.training.state import TrainState

Metrics = dict[str, jax.Array]


def corrupt(
    key: jax.Array, clean: jax.Array, noise: NoiseConfig
) -> tuple[jax.Array, jax.Array | None]:
    """Adds a configuration's noise to clean pictures (B, H, W, C) in [0, 1].

    Returns the noisy pictures and, for Gaussian noise, each one's sigma in [0, 1] units.
    """
    if noise.kind == "poisson_gaussian":
        noisy = poisson_gaussian_noise(
            key, clean, noise.gain / 255, read_noise=noise.read_noise / 255, clip=noise.clip
        )
        return noisy, None
    level_key, noise_key = jax.random.split(key)
    if noise.kind == "blind":
        low, high = noise.sigma_range
        sigma = uniform_levels(level_key, clean.shape[0], low / 255, high / 255)
    else:
        sigma = jnp.full((clean.shape[0],), noise.sigma / 255)
    return gaussian_noise(noise_key, clean, sigma, clip=noise.clip), sigma


def reconstruction_loss(denoised: jax.Array, clean: jax.Array, kind: str) -> jax.Array:
    """Mean distance: |d| (l1), d^2 (l2), or sqrt(d^2 + 0.001^2) (charbonnier)."""
    difference = denoised.astype(jnp.float32) - clean
    if kind == "l1":
        return jnp.mean(jnp.abs(difference))
    if kind == "l2":
        return jnp.mean(jnp.square(difference))
    return jnp.mean(jnp.sqrt(jnp.square(difference) + 1e-3**2))


def make_train_step(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch, key) -> (state, metrics)`.

    `batch` is (B, H, W, C) uint8; the noise is drawn here, on the device, from
    `fold_in(key, state.step)`, so that a resumed run draws what an uninterrupted one would have.
    Metrics are scalars: loss, psnr (dB, of the batch), grad_norm (before clipping).
    """

    def train_step(
        state: TrainState, batch: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        clean = batch.astype(jnp.float32) / 255
        noisy, sigma = corrupt(jax.random.fold_in(key, state.step), clean, config.noise)

        def loss_fn(params: nnx.State):
            # copy=True: without it, batch norm's statistics would leak a tracer.
            model = nnx.merge(graphdef, params, state.rest, copy=True)
            denoised = model(noisy, sigma) if config.model.noise_level else model(noisy)
            loss = reconstruction_loss(denoised, clean, config.optimizer.loss)
            rest = nnx.state(model, nnx.Not(nnx.Param))
            return loss, (denoised, rest)

        (loss, (denoised, rest)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A young average follows quickly: what it holds of the random start is soon gone.
        decay = jnp.minimum(config.optimizer.ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        metrics = {
            "loss": loss,
            "psnr": jnp.mean(psnr(denoised.astype(jnp.float32), clean)),
            "grad_norm": optax.global_norm(grads),
        }
        return TrainState(state.step + 1, params, rest, opt_state, ema), metrics

    return jax.jit(train_step, donate_argnums=0)
