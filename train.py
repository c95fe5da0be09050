"""Trains a denoiser and shows what it learnt.

    python train.py                                   two CPU cores, about seven minutes
    python train.py --data.source ~/Pictures          on your own pictures
    python train.py color --data.source DIR           for real use, on an accelerator
    python train.py --help                            every option

Read from top to bottom: parse, build, train, evaluate, save. Running the same command again goes
on where the run stopped.
"""

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from sa_flax.config import Config, parse_command
from sa_flax.data.builders import open_splits
from sa_flax.data.pipeline import Pictures, check_sizes, training_batches
from sa_flax.errors import explain
from sa_flax.inference import evaluate
from sa_flax.inference.denoiser import Denoiser
from sa_flax.inference.run_directory import Progress
from sa_flax.training import checkpoint, logging, processes, run, sharding
from sa_flax.training.state import create_state, make_optimizer
from sa_flax.training.steps import make_train_step
from sa_flax.xla_flags import keep_compiled, tune_cpu


def train(config: Config, output: Path, *, resume: bool) -> int:
    """Trains, evaluates and saves; returns the exit code."""
    started = time.monotonic()

    # The network, laid out over all devices, and the pictures.
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(config, mesh)
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    state = sharding.place(state, mesh)
    splits = processes.first_then_others(
        lambda: open_splits(config.data.source, directory=config.data.directory)
    )
    check_sizes(splits, config.data.crop)
    pictures = functools.partial(Pictures, splits=splits, channels=config.model.channels)
    train_set = pictures(splits.train, cache_bytes=config.data.cache_mb * 2**20)
    validation_set = run.evaluation_crops(pictures(splits.validation), largest=256)

    # The run's directory: a new one, or one to go on with.
    with contextlib.ExitStack() as stack:
        claim = run.claim(output, config, resume=resume)
        changes = processes.first(lambda: stack.enter_context(claim))
        checkpoints = checkpoint.Checkpoints(output, keep=config.keep_checkpoints)
        stack.enter_context(contextlib.closing(checkpoints))
        progress = Progress(step=0, batches=0, best_psnr=None)
        restored = checkpoints.restore(state)
        if restored is not None:
            state, progress, broken = restored
            say(f"skipped a broken checkpoint: step {line}" for line in broken)
        facts = run.facts(config, output, state.params, splits, progress)
        say([logging.format_facts(facts)])
        say(f"  changed since: {line}" for line in changes or ())
        say(f"  skipped, not readable: {line}" for line in splits.skipped)

        first, began = processes.is_first(), progress.step
        log = (
            logging.RunLog(output, steps=config.steps, start=progress.step)
            if first
            else logging.NoLog()
        )
        denoiser = Denoiser(nnx.merge(graphdef, *sharding.on_one_device((state.ema, state.rest))))
        with contextlib.closing(log), run.catch_signals() as stopped_by:
            state, progress = fit(
                config, mesh, graphdef, optimizer, state, progress, train_set, validation_set,
                denoiser, checkpoints, log, output, stopped_by,
            )  # fmt: skip
        denoiser = denoiser.with_variables(*sharding.on_one_device((state.ema, state.rest)))
        stopped = progress.step < config.steps
        if isinstance(log, logging.RunLog):
            logging.save_learning_curve(output)
            print(log.summary())
        if stopped:
            say([f"stopped at step {progress.step}; the same command goes on from there."])
            return 128 + (stopped_by or [signal.SIGTERM])[0]
        if not first:
            return 0

        # What it gained: the test pictures, beside the noisy input and non-local means.
        print("\nevaluating on the test pictures, beside scikit-image's non-local means")
        test_set = run.evaluation_crops(pictures(splits.test), largest=768)
        rows = evaluate.evaluate(
            {"non-local means": evaluate.non_local_means, output.name: denoiser.method},
            test_set,
            sigmas=config.evaluation_sigmas,
        )
        print(f"\n{evaluate.format_table(rows)}\n({len(test_set)} test pictures)\n")
        steps, seconds = progress.step - began, time.monotonic() - started
        run.save_results(output, rows, steps=steps, seconds=seconds)
        samples(denoiser, test_set, config, output / "samples" / "test")
        print(f"pictures (noisy | denoised | clean): {output}/samples, {output}/learning_curve.png")
        print(f"logs: {output}/metrics.jsonl, tensorboard --logdir {output}/tensorboard")
        print(f"\nnext: sa-flax denoise YOUR_PICTURE.jpg --model {output} --output denoised")
    return 0


def fit(
    config, mesh, graphdef, optimizer, state, progress, train_set, validation_set,
    denoiser, checkpoints, log, output, stopped_by,
):  # fmt: skip
    """The loop: goes on from `progress` to the last step, or until a signal is caught."""
    step, best = progress.step, progress.best_psnr
    train_step = make_train_step(graphdef, optimizer, config, mesh)
    key = jax.random.key(config.seed)
    batches = training_batches(
        train_set,
        config.data,
        seed=config.seed,
        start=progress.batches,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    monitor = run.Monitor(config.optimizer.max_skipped)
    pending: list[dict[str, jax.Array]] = []
    waited = 0.0
    stopping = False
    while step < config.steps and not stopping:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        state, metrics = train_step(state, sharding.place_batch(batch, mesh), key)
        step += 1
        pending.append(metrics)
        log.step()
        if len(pending) > 2:  # stay at most two steps ahead of the device
            jax.block_until_ready(pending[-3])
        if jax.process_count() == 1 or step % 10 == 0:  # all processes stop at the same step
            stopping = processes.any_process(bool(stopped_by))

        last = step == config.steps
        evaluating = step % config.evaluate_every == 0 or last
        saving = step % config.checkpoint_every == 0 or last
        if step % config.log_every == 0 or saving or evaluating:
            means = monitor.means(pending, last_step=step)
            log.metrics(
                step, {**means, "seconds_waiting_for_data": waited},
                images_per_step=config.data.batch_size,
            )  # fmt: skip
            pending, waited = [], 0.0
        psnr = None
        if evaluating and not stopping:
            denoiser = denoiser.with_variables(*sharding.on_one_device((state.ema, state.rest)))
            rows = evaluate.evaluate(
                {"denoised": denoiser.method},
                validation_set,
                sigmas=config.evaluation_sigmas,
                with_ssim=False,
            )
            scores = {f"sigma {r['sigma']:g}": r["psnr"] for r in rows if r["method"] != "noisy"}
            psnr = float(np.mean(list(scores.values())))
            best = psnr if best is None else max(best, psnr)
            log.validation(step, scores)
            if processes.is_first():
                directory = output / "samples" / f"{step:07}"
                for name, picture in samples(
                    denoiser, validation_set[:2], config, directory
                ).items():
                    log.picture(step, name, picture)
        if saving:
            checkpoints.save(state, Progress(step, step, best), psnr=psnr)
    batches.close()
    if pending:
        monitor.means(pending, last_step=step)
    progress = Progress(step, step, best)
    checkpoints.save(state, progress)
    return state, progress


def samples(denoiser, pictures, config, directory: Path) -> dict[str, np.ndarray]:
    """Saves noisy | denoised | clean of each picture at the middle evaluation level."""
    sigma = sorted(config.evaluation_sigmas)[len(config.evaluation_sigmas) // 2]
    shown = {}
    for index, picture in enumerate(pictures):
        clean = picture.astype(np.float32) / 255
        noisy = evaluate.noisy_version(clean, sigma, seed=0, index=index)
        name = f"picture{index}_sigma{sigma:g}"
        shown[name] = logging.side_by_side([noisy, denoiser.method(noisy, sigma / 255), clean])
        logging.save_png(directory / f"{name}.png", shown[name])
    return shown


def say(lines: Iterable[str]) -> None:
    """Prints lines, in the first process only."""
    for line in lines if processes.is_first() else ():
        print(line)


def main() -> int:
    tune_cpu()  # XLA reads its options when the first array is made
    keep_compiled()
    try:
        command = parse_command(sys.argv[1:])
        if command.distributed:
            processes.start(command.coordinator, command.num_processes, command.process_id)
        return train(command.config, command.output, resume=command.resume)
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        code, message = explained
        print(f"train.py: {message}", file=sys.stderr)
        return code


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # until training has something to save
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        sys.exit(130)
