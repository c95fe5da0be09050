"""What a run carries from step to step, and the optimiser that moves it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from optax.contrib import MuonDimensionNumbers, muon

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
    params: nnx.State[Any, Any]
    rest: nnx.State[Any, Any]
    opt_state: optax.OptState
    ema: nnx.State[Any, Any]


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the highest rate, then down to `final_fraction` of it.

    "cosine" falls from the warm-up to the last step; "wsd" stays, and falls in a straight line over
    the last `decay_share` of the steps: until there the rate is the same however many steps a run
    has (Hu et al., "MiniCPM", COLM 2024). The warm-up takes at most half of the steps.
    """
    highest, warmup = config.learning_rate, min(config.warmup_steps, steps // 2)
    lowest = highest * config.final_fraction
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, highest, warmup, steps, lowest)
    decay = min(round(config.decay_share * steps), steps - warmup)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, highest, warmup),
            optax.constant_schedule(highest),
            # A schedule of no steps would stay at its start.
            optax.linear_schedule(highest, lowest, decay) if decay else lambda count: lowest,
        ],
        [warmup, steps - decay],
    )


def learning_rate(config: OptimizerConfig, steps: int, state: "TrainState") -> jax.Array:
    """The rate of the next update. Skipped updates don't count as steps of the schedule.

    Where the optimiser keeps no count of its own, the steps of the run count.
    """
    nodes = jax.tree.leaves(state.opt_state, is_leaf=_is_schedule)
    counts = [node.count for node in nodes if _is_schedule(node)]
    count = counts[0] if counts else state.step
    # Optax divides whole numbers, for those who promote strictly as for others.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(learning_rate_schedule(config, steps)(count), jnp.float32)


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW, whose kernels (rank > 1) decay, or Muon.

    Muon (Jordan et al., 2024) has the step of AdamW in root mean square, 0.2 of the rate (Liu et
    al., "Muon is scalable for LLM training", 2025), so that one rate does for both. The kernels
    that it moves decay. What it leaves goes by Adam with Nesterov's momentum (Dozat, 2016), and
    doesn't decay.
    """
    schedule = learning_rate_schedule(config, steps)
    if config.kind == "muon":
        optimizer = muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,
        )
    else:
        optimizer = optax.adamw(
            schedule,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _matrices(params: nnx.State[Any, Any]) -> nnx.State[Any, Any]:
    """How Muon takes kernels (..., in, out) for matrices: all axes but the last are one.

    None for what it leaves to Adam: vectors, kernels of single channels, the last to pixels.
    """

    def of(p: jax.Array) -> MuonDimensionNumbers | None:
        if p.ndim < 2 or p.shape[-2] == 1 or p.shape[-1] <= 3:
            return None
        return MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)

    return jax.tree.map(of, params)


def create_state(
    config: Config, optimizer: optax.GradientTransformation, *, resuming: bool = False
) -> tuple[nnx.GraphDef[Any], TrainState]:
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
