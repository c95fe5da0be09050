"""What a run carries from step to step, and the optimiser that moves it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sa_flax.config import Config, OptimizerConfig
from sa_flax.training.network import network_of, start_from


class TrainState(NamedTuple):
    """Everything that a step reads and writes.

    Attributes:
      step: number of steps done.
      params: trainable parameters.
      rest: what else the network holds (running statistics of batch norm; nothing in the U-Net).
      opt_state: the optimiser's state.
      ema: exponential moving average of `params`; this is what is evaluated and used.
    """

    step: jax.Array
    params: nnx.State
    rest: nnx.State
    opt_state: optax.OptState
    ema: nnx.State


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine down to `final_fraction` of the highest rate.

    The warm-up takes at most half of the steps.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, steps // 2),
        decay_steps=steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW; only kernels (rank > 1) decay."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, steps),
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
    )


def create_state(
    config: Config, optimizer: optax.GradientTransformation, *, resuming: bool = False
) -> tuple[nnx.GraphDef, TrainState]:
    """The network's structure and the state before the first step.

    A run that is `resuming` does not need the network that it once started from.
    """
    model = network_of(config)
    if config.init_from is not None and not resuming:
        start_from(model, config.init_from)
    graphdef, *states = nnx.split(model, nnx.Param, ...)
    params, rest = states
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        opt_state=optimizer.init(params),
        # A copy: parameters and their average are donated to every step separately.
        ema=jax.tree.map(jnp.copy, params),
    )
    return graphdef, state
