"""One training step: a pure function of (state, batch, key), jitted once, its state donated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from sa_flax.config import Config
from sa_flax.functional.image_quality import psnr
from sa_flax.training.sharding import layout, replicated
from sa_flax.training.state import TrainState, learning_rate

Metrics = dict[str, jax.Array]


def reconstruction_loss(
    denoised: jax.Array, clean: jax.Array, noisy: jax.Array, kind: str
) -> jax.Array:
    """Mean distance: |d| (l1), d^2 (l2), or sqrt(d^2 + 0.001^2) (charbonnier).

    `log_mse` is the mean over the batch of log(a picture's mean d^2 + 5e-5): PSNR in other units
    (a picture of 20 dB counts as one of 30 does), levelling off at 43 dB: pictures next to perfect
    have the largest gradients, and would drown the others.

    `weighted_mse` is the mean over the batch of

        mean d^2 / sqrt(mean n^2 + (2/255)^2),    n = noisy - clean,

    of each picture: what a network leaves of white noise is about in proportion to the noise's
    standard deviation, so that strong and faint noise count alike, but not, as with `log_mse`, what
    is smooth and what is textured.
    """
    difference = denoised.astype(jnp.float32) - clean
    if kind == "weighted_mse":
        mse, noise = (jnp.mean(jnp.square(x), axis=(1, 2, 3)) for x in (difference, noisy - clean))
        return jnp.mean(mse * jax.lax.rsqrt(noise + (2 / 255) ** 2))
    if kind == "log_mse":
        return jnp.mean(jnp.log(jnp.mean(jnp.square(difference), axis=(1, 2, 3)) + 5e-5))
    if kind == "l1":
        return jnp.mean(jnp.abs(difference))
    if kind == "l2":
        return jnp.mean(jnp.square(difference))
    return jnp.mean(jnp.sqrt(jnp.square(difference) + 1e-3**2))


def make_train_step(
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    config: Config,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch, key) -> (state, metrics)`.

    `batch` holds "clean", (B, H, W, C) uint8, and in a run on pairs "noisy" likewise. Without it
    the noise is drawn here, on the device, from `fold_in(key, state.step)`, so that a resumed run
    draws what an uninterrupted one would have.
    Metrics are scalars: loss, psnr (dB, of the batch), grad_norm (before clipping), learning_rate,
    and skipped: 1 where loss or gradient was not finite, so that nothing but `state.step` moved;
    else 0.

    With `config.optimizer.accumulate` the batch, with the noise it would have had anyway, goes
    through the network in parts, and the mean of their gradients makes the step. (Batch norm takes
    its statistics from the parts.) With a mesh, the state rests as `sharding.layout` says;
    parameters are gathered where they are used.
    """
    parts = config.optimizer.accumulate

    def train_step(
        state: TrainState, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        pictures = {name: array.astype(jnp.float32) / 255 for name, array in batch.items()}
        clean, sigma = pictures["clean"], None
        if "noisy" in pictures:
            noisy = pictures["noisy"]
        else:
            noisy, sigma = config.noise(jax.random.fold_in(key, state.step), clean)

        def loss_fn(params: nnx.State[Any, Any], rest: nnx.State[Any, Any], noisy, sigma, clean):
            if mesh is not None:
                params = jax.lax.with_sharding_constraint(params, replicated(mesh))
            # copy=True: without it, batch norm's statistics would leak a tracer.
            model = nnx.merge(graphdef, params, rest, copy=True)
            denoised = model(noisy, sigma) if config.model.noise_level else model(noisy)
            loss = reconstruction_loss(denoised, clean, noisy, config.optimizer.loss)
            rest = nnx.state(model, nnx.Not(nnx.Param))
            return loss, (rest, jnp.mean(psnr(denoised.astype(jnp.float32), clean)))

        gradient = jax.value_and_grad(loss_fn, has_aux=True)

        def accumulate(carry, part):
            rest, grads, loss, decibels = carry
            (part_loss, (rest, part_decibels)), part_grads = gradient(state.params, rest, *part)
            grads = jax.tree.map(jnp.add, grads, part_grads)
            return (rest, grads, loss + part_loss, decibels + part_decibels), None

        if parts == 1:
            (loss, (rest, decibels)), grads = gradient(
                state.params, state.rest, noisy, sigma, clean
            )
        else:
            zeros = (jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(()), jnp.zeros(()))
            split = jax.tree.map(lambda x: _in_parts(x, parts), (noisy, sigma, clean))
            (rest, *sums), _ = jax.lax.scan(accumulate, (state.rest, *zeros), split)
            grads, loss, decibels = jax.tree.map(lambda x: x / parts, sums)
        if mesh is not None:
            grads = jax.lax.with_sharding_constraint(grads, layout(grads, mesh))

        # Optax takes powers of whole numbers, for those who promote strictly as for others.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A young average follows quickly: what it holds of the random start is soon gone.
        decay = jnp.minimum(config.optimizer.ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        grad_norm = optax.global_norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        after = TrainState(state.step, params, rest, opt_state, ema)
        after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
        after = after._replace(step=state.step + 1)
        if mesh is not None:
            after = jax.lax.with_sharding_constraint(after, layout(after, mesh))
        metrics = {
            "loss": loss,
            "psnr": decibels,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(config.optimizer, config.steps, state),
            "skipped": 1 - finite.astype(jnp.int32),
        }
        return after, metrics

    return jax.jit(train_step, donate_argnums=0)


def _in_parts(x: jax.Array, parts: int) -> jax.Array:
    """(B, ...) to (parts, B / parts, ...), where each part takes rows from every device."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)
