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
import json
import resource
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from sa_flax.config import Config, parse_command
from sa_flax.data.builders import open_splits
from sa_flax.data.pipeline import Pictures, check_sizes, training_batches
from sa_flax.errors import DivergedError, InputError, WorkerDiedError, out_of_memory
from sa_flax.inference import evaluate
from sa_flax.inference.denoiser import Denoiser
from sa_flax.inference.run_directory import Progress
from sa_flax.training import checkpoint, logging, run, sharding
from sa_flax.training.state import create_state, make_optimizer
from sa_flax.training.steps import make_train_step
from sa_flax.xla_flags import tune_cpu


def train(config: Config, output: Path, *, resume: bool) -> int:
    """Trains, evaluates and saves; returns the exit code."""
    started = time.monotonic()

    # The network, on all devices, and the pictures.
    mesh = sharding.data_mesh()
    sharding.check_batch(config.data.batch_size, mesh)
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    state = sharding.replicate(state, mesh)
    splits = open_splits(config.data.source, directory=config.data.directory)
    check_sizes(splits, config.data.crop)
    pictures = functools.partial(Pictures, splits=splits, channels=config.model.channels)
    train_set = pictures(splits.train, cache_bytes=config.data.cache_mb * 2**20)
    validation_set = run.evaluation_crops(pictures(splits.validation), largest=256)

    # The run's directory: a new one, or one to go on with.
    with run.claim(output, config, resume=resume) as changes:
        checkpoints = checkpoint.Checkpoints(output, keep=config.keep_checkpoints)
        progress = Progress(step=0, batches=0, best_psnr=None)
        restored = checkpoints.restore(state)
        if restored is not None:
            state, progress, broken = restored
            for line in broken:
                print(f"skipped a broken checkpoint: step {line}")
        print(logging.format_facts(run.facts(config, output, state.params, splits, progress)))
        for line in changes:
            print(f"  changed since: {line}")
        for line in splits.skipped:
            print(f"  skipped, not readable: {line}")

        log = logging.RunLog(output, steps=config.steps, start=progress.step)
        denoiser = Denoiser(nnx.merge(graphdef, state.ema, state.rest))
        with (
            contextlib.closing(log),
            contextlib.closing(checkpoints),
            run.catch_signals() as stopped_by,
        ):
            state, progress = fit(
                config, mesh, graphdef, optimizer, state, progress, train_set, validation_set,
                denoiser, checkpoints, log, output, stopped_by,
            )  # fmt: skip
        logging.save_learning_curve(output)
        if stopped_by:
            print(f"stopped at step {progress.step}; the same command goes on from there.")
            return 128 + stopped_by[0]

        # What it gained: the test pictures, beside the noisy input and non-local means.
        print("\nevaluating on the test pictures, beside scikit-image's non-local means")
        test_set = run.evaluation_crops(pictures(splits.test), largest=768)
        denoiser = denoiser.with_variables(state.ema, state.rest)
        rows = evaluate.evaluate(
            {"non-local means": evaluate.non_local_means, output.name: denoiser.method},
            test_set,
            sigmas=config.evaluation_sigmas,
        )
        print(f"\n{evaluate.format_table(rows)}\n({len(test_set)} test pictures)\n")
        results = {
            "results": rows,
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            **run.versions(),
        }
        (output / "evaluation.json").write_text(json.dumps(results, indent=2) + "\n")
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
    train_step = make_train_step(graphdef, optimizer, config)
    key = jax.random.key(config.seed)
    batches = training_batches(
        train_set,
        config.data,
        seed=config.seed,
        start=progress.batches,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    pending: list[dict[str, jax.Array]] = []
    waited = 0.0
    while step < config.steps and not stopped_by:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        state, metrics = train_step(state, sharding.place_batch(batch, mesh), key)
        step += 1
        pending.append(metrics)
        log.step()
        if len(pending) > 2:  # stay at most two steps ahead of the device
            jax.block_until_ready(pending[-3])

        last = step == config.steps
        evaluating = step % config.evaluate_every == 0 or last
        saving = step % config.checkpoint_every == 0 or last
        if step % config.log_every == 0 or saving or evaluating:
            means = run.fetch_means(pending, last_step=step)
            log.metrics(
                step, {**means, "seconds_waiting_for_data": waited},
                images_per_step=config.data.batch_size,
            )  # fmt: skip
            pending, waited = [], 0.0
        psnr = None
        if evaluating and not stopped_by:
            denoiser = denoiser.with_variables(state.ema, state.rest)
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
            shown = samples(denoiser, validation_set[:2], config, output / "samples" / f"{step:07}")
            for name, picture in shown.items():
                log.picture(step, name, picture)
        if saving:
            checkpoints.save(state, Progress(step, step, best), psnr=psnr)
    batches.close()
    # A run that was stopped: nothing is kept that is not finite, and nothing finite is lost.
    if pending:
        run.fetch_means(pending, last_step=step)
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


def main() -> int:
    tune_cpu()  # XLA reads its options when the first array is made
    try:
        command = parse_command(sys.argv[1:])
        return train(command.config, command.output, resume=command.resume)
    except InputError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except (DivergedError, WorkerDiedError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = str(error).splitlines()[:1] or ["MemoryError"]
        print(
            f"train.py: not enough memory ({reason[0][:200]}). Lower --data.batch-size, "
            "--data.crop or --model.width.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # until training has something to save
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        sys.exit(130)
