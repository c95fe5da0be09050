"""The training loop, from top to bottom: build, take up the run, train, evaluate.

What a run owns (its directory, checkpoints, log, signals) is `Run`'s; what a step does is in
`steps`; where arrays lie is in `sharding`.
"""

import contextlib
import time
from typing import Any

import jax
from flax import nnx

from sa_flax.config import Config
from sa_flax.data.pipeline import training_batches
from sa_flax.errors import NotFiniteError
from sa_flax.inference import evaluate
from sa_flax.inference.denoiser import Denoiser
from sa_flax.training import processes, sharding
from sa_flax.training.mirror import Mirror
from sa_flax.training.run import Run, evaluation_crops, facts
from sa_flax.training.run_data import open_data
from sa_flax.training.run_directory import saved_steps
from sa_flax.training.state import create_state, make_optimizer
from sa_flax.training.steps import make_train_step


def train(config: Config, place: Mirror, *, resume: bool) -> int:
    """Trains, evaluates and saves, in `place`; returns the exit code."""
    started = time.monotonic()
    output = place.folder

    # The network, laid out over all devices, and the pictures.
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config, mesh)
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer, resuming=any(saved_steps(output)))
    state = sharding.place(state, mesh)
    train_step = make_train_step(graphdef, optimizer, config, mesh)
    splits = open_data(config, output)
    validation_set = evaluation_crops(splits.validation, largest=256)
    noises = evaluate.noises_of(config.noise, config.evaluation_sigmas, pairs=splits.pairs)

    run = Run(config, place, splits, resume=resume)
    with run, processes.noticing_the_lost(run.newest):
        state = run.restore(state)
        run.begin(facts(config, place.name, state.params, splits, run.step))
        batches = training_batches(
            splits.train,
            config.data,
            seed=config.seed,
            start=run.step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        key = jax.random.key(config.seed)
        denoiser = Denoiser(_network(graphdef, state))

        def validate() -> None:
            nonlocal denoiser
            denoiser = denoiser.with_variables(*_averages(state))
            # A network that has run away gets no score; the run ends by itself if it stays so.
            with contextlib.suppress(NotFiniteError):
                rows = evaluate.evaluate(
                    {"denoised": denoiser.method},
                    validation_set,
                    noises=noises,
                    with_ssim=False,
                )
                run.scores(rows)
                run.samples(denoiser, validation_set[:2], noises, f"{run.step:07}")

        if run.owes_validation():
            validate()
            run.save(state, _network(graphdef, state))
        for step in run.steps():
            batch = sharding.place_batch(run.next_of(batches), mesh)
            state, metrics = train_step(state, batch, key)
            run.note(step, metrics)
            if run.due(config.evaluate_every):
                validate()
            if run.due(config.checkpoint_every):
                run.save(state, _network(graphdef, state))
        batches.close()
        run.save(state, _network(graphdef, state))
        run.close_log()
        if run.stopped:
            return run.say_goodbye()

        # What it gained: the test pictures, beside the noisy input and non-local means.
        denoiser = denoiser.with_variables(*_averages(state))

        def measure() -> None:
            print("\nevaluating on the test pictures, beside scikit-image's non-local means")
            test_set = evaluation_crops(splits.test, largest=768)
            rows = evaluate.evaluate(
                {
                    evaluate.BASELINE: evaluate.non_local_means,
                    evaluate.label(output): denoiser.method,
                },
                test_set,
                noises=noises,
            )
            run.samples(denoiser, test_set, noises, "test")
            run.finish(rows, test_set=test_set, seconds=time.monotonic() - started)

        # The others wait for it: at their end JAX would, for five minutes, and then end them all.
        processes.first(measure)
    return 0


def _averages(state) -> tuple[nnx.State[Any, Any], nnx.State[Any, Any]]:
    """What is evaluated and kept, whole, on one device. Every process must call this."""
    return sharding.on_one_device((state.ema, state.rest))


def _network(graphdef: nnx.GraphDef[Any], state) -> nnx.Module:
    return nnx.merge(graphdef, *_averages(state))
