"""One cell with one seed: trained within its budget, stopped and gone on with, measured."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.timing import interleaved
from benchmarks.where_to_attend.grid import PLAIN, Cell, build
from benchmarks.where_to_attend.pictures import NOISES
from benchmarks.where_to_attend.settings import Settings
from sa_flax.data.pipeline import open_pictures, training_batches
from sa_flax.files import write_whole
from sa_flax.inference.denoiser import Denoiser
from sa_flax.inference.evaluate import Method, evaluate
from sa_flax.models.unet import AttentionUNet
from sa_flax.training.state import TrainState, make_optimizer
from sa_flax.training.steps import make_train_step

# Steps between states that are kept, for a process that is killed without a word.
_KEEP_EVERY = 500
# Steps between entries of the learning curve.
_NOTE_EVERY = 100


class StoppedError(Exception):
    """The process was told to stop; what is done is kept."""


@dataclass(frozen=True)
class Trained:
    """What a training leaves: the network (averaged parameters), its cost and its curve."""

    model: AttentionUNet
    steps: int
    cpu_seconds: float
    curve: list[tuple[int, float]]


@dataclass(frozen=True)
class _Step:
    """A compiled training step with its first state, and the structure of its network."""

    run: Callable[..., Any]
    state: TrainState
    graphdef: nnx.GraphDef


def compiled_step(cell: Cell, settings: Settings, *, steps: int, seed: int) -> _Step:
    """The training step of a cell: the one of `python train.py`, whatever the network."""
    config = settings.config(steps, seed)
    model = build(cell, width=settings.width, levels=settings.levels, seed=seed)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = make_optimizer(config.optimizer, steps)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params),
    )
    step = make_train_step(graphdef, optimizer, config)
    crops = (settings.batch, settings.crop, settings.crop, 3)
    batch = {"clean": jax.ShapeDtypeStruct(crops, jnp.uint8)}
    return _Step(step.lower(state, batch, jax.random.key(0)).compile(), state, graphdef)


def costs(cells: list[Cell], settings: Settings, *, seconds: float) -> dict[str, float]:
    """Processor milliseconds of a training step of each cell, over all threads.

    All cells take turns, so that what else the machine does falls on all alike; of each the median
    counts. What compiling takes is in none.
    """

    def turn(cell: Cell) -> Callable[[], None]:
        step = compiled_step(cell, settings, steps=1000, seed=0)
        crops = (settings.batch, settings.crop, settings.crop, 3)
        batch = {"clean": jnp.asarray(np.random.default_rng(0).integers(0, 256, crops, np.uint8))}
        key = jax.random.key(0)
        held = [step.state]

        def run() -> None:
            # The state is donated to each step.
            held[0] = jax.block_until_ready(step.run(held[0], batch, key)[0])

        return run

    timed = interleaved({cell.name: turn(cell) for cell in cells}, rounds=10_000, seconds=seconds)
    return {name: row["processor_ms"] for name, row in timed.items()}


def add_costs(
    known: Mapping[str, float], cells: list[Cell], settings: Settings, *, seconds: float
) -> dict[str, float]:
    """The costs with those of cells that are not known yet, which the plain network is timed with.

    What is measured later, perhaps on a busier machine, is scaled by what the plain network took
    then and takes now.
    """
    new = [cell for cell in cells if cell.name not in known]
    if not new:
        return dict(known)
    plain = [] if any(cell.name == PLAIN for cell in new) else [Cell(PLAIN)]
    measured = costs([*plain, *new], settings, seconds=seconds)
    scale = known[PLAIN] / measured[PLAIN] if PLAIN in known else 1.0
    return {**{name: scale * cost for name, cost in measured.items()}, **known}


def steps_of(cost_ms: float, settings: Settings) -> int:
    """How many steps of so many processor milliseconds a cell may take."""
    if settings.steps is not None:
        return settings.steps
    return max(1, round(settings.minutes * 60e3 / cost_ms))


def train(
    cell: Cell,
    settings: Settings,
    *,
    seed: int,
    steps: int,
    work: Path,
    stopped: Callable[[], bool],
) -> Trained:
    """Trains a cell, from its last kept state where there is one.

    Batch number i and its noise are functions of the seed and i alone, so that every cell sees the
    same crops with the same noise in the same order (a dear cell fewer of them), and a cell that
    was stopped goes on as if it had not been. The rate falls by a cosine over the cell's own
    `steps`, that is over its budget.

    Args:
      cell, settings, seed, steps: what is trained, and how long.
      work: the file that the state is kept in, also the last one.
      stopped: asked before each step.

    Raises:
      StoppedError: where `stopped()`; the state is kept.
      FloatingPointError: where the loss is not finite.
    """
    config = settings.config(steps, seed)
    step = compiled_step(cell, settings, steps=steps, seed=seed)
    state, before, curve, psnr = _restored(step.state, work)
    pictures = open_pictures(config.data, channels=3).train
    done = int(state.step)
    batches = training_batches(pictures, config.data, seed=seed, start=done)
    key = jax.random.key(seed)
    start = time.process_time()

    def used() -> float:
        jax.block_until_ready(state)
        return before + time.process_time() - start

    with contextlib.closing(batches):
        while done < steps:
            if stopped():
                _keep(work, state, used(), curve, psnr)
                raise StoppedError
            batch = {"clean": jnp.asarray(next(batches)["clean"])}
            state, metrics = step.run(state, batch, key)
            done += 1
            psnr.append(metrics["psnr"])
            if done % _NOTE_EVERY == 0 or done == steps:
                mean = float(np.mean(psnr))
                if not np.isfinite(mean):
                    raise FloatingPointError(
                        f"{cell.name}, seed {seed}: ran away before step {done}."
                    )
                curve.append((done, round(mean, 3)))
                psnr = []
            if done % _KEEP_EVERY == 0 or done == steps:
                _keep(work, state, used(), curve, psnr)
    return Trained(nnx.merge(step.graphdef, state.ema, state.rest), steps, used(), curve)


def _keep(work: Path, state: TrainState, cpu_seconds: float, curve: list, psnr: list) -> None:
    leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    noted = {"curve": np.reshape(curve, (-1, 2)), "psnr": np.asarray(psnr, np.float32)}
    write_whole(work, lambda file: np.savez(file, cpu_seconds=cpu_seconds, **noted, **leaves))


def _restored(state: TrainState, work: Path) -> tuple[TrainState, float, list, list]:
    """The kept state, what it took, its curve and the PSNR since; the fresh one where none is."""
    if not work.is_file():
        return state, 0.0, [], []
    with np.load(work) as kept:
        leaves, structure = jax.tree.flatten(state)
        filled = [jnp.asarray(kept[f"leaf{i}"], leaf.dtype) for i, leaf in enumerate(leaves)]
        curve = [(int(step), float(psnr)) for step, psnr in kept["curve"]]
        cpu_seconds, psnr = float(kept["cpu_seconds"]), list(kept["psnr"])
        return jax.tree.unflatten(structure, filled), cpu_seconds, curve, psnr


def measure(
    model: AttentionUNet,
    sets: Mapping[str, list[np.ndarray]],
    *,
    window: int,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """PSNR in dB of each picture, by set, noise and statistics.

    Statistics are "whole", of the whole picture; and for networks whose attention pools, "window",
    of a window of so many pixels around each, and "both", the mean of the two results.

    Raises:
      StoppedError: where `stopped()`, which is asked after each picture.
    """
    whole = _once(Denoiser(model.with_window(None)).method)
    methods = {"whole": whole}
    if any(hasattr(layer, "window") for _, layer in nnx.iter_modules(model)):
        windowed = _once(Denoiser(model, window=(window, window)).method)
        methods["window"] = windowed
        methods["both"] = lambda noisy, sigma: (whole(noisy, sigma) + windowed(noisy, sigma)) / 2
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, pictures in sets.items():
        rows: dict[str, dict[str, list[float]]] = {
            noise: {method: [] for method in ("noisy", *methods)} for noise in NOISES
        }

        def note(row: dict[str, Any], rows=rows) -> None:
            if stopped():
                raise StoppedError
            rows[row["noise"]][row["method"]].append(round(row["psnr"], 3))

        evaluate(methods, pictures, noises=NOISES, with_ssim=False, each=note)
        found[name] = rows
    return found


def _once(method: Method) -> Method:
    """The method, which computes nothing anew for the picture that it was last asked about."""
    last: list[Any] = [None, None]

    def remembered(noisy: np.ndarray, sigma: float | None) -> np.ndarray:
        if last[0] is not noisy:
            last[:] = noisy, method(noisy, sigma)
        return last[1]

    return remembered
