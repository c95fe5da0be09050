"""A run and its surroundings: its directory, its signals, what it is, what it met."""

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from sa_flax.config import CHANGEABLE, Config, differences, from_json, to_json
from sa_flax.data.builders import Splits
from sa_flax.data.pipeline import describe_cache
from sa_flax.errors import DivergedError, InputError
from sa_flax.inference.run_directory import CHECKPOINTS, CONFIG, Progress


@contextlib.contextmanager
def claim(output: Path, config: Config, *, resume: bool) -> Iterator[list[str]]:
    """Makes `output` this run's directory, or takes up the run that stopped there.

    Yields the settings that differ from the earlier run's (those that may), one line each. No
    other run can claim the directory meanwhile.

    Raises:
      InputError: where the directory holds something else, a run with other settings, or one that
        is going on; or where `resume` is asked for and there is nothing to resume.
    """
    earlier = output / CONFIG
    if os.path.exists(output) and not os.path.isdir(output):
        raise InputError(f"{output} is a file; --output must be a directory.")
    if resume and not (os.path.isfile(earlier) and any(_checkpoints(output))):
        raise InputError(
            f"nothing to resume in {output}. Leave --resume out to start there, or give the "
            "directory of an earlier run with --output."
        )
    if not os.path.isfile(earlier) and os.path.isdir(output) and any(_visible(output)):
        raise InputError(
            f"{output} is not empty and is not a training run's directory. Choose another with "
            "--output."
        )
    changes = _compare(earlier, config, output) if os.path.isfile(earlier) else []
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"can't make the directory {output} ({error.strerror}). Choose another --output."
        ) from error
    try:
        lock = filelock.FileLock(output / ".lock", timeout=0)
        with lock:
            temporary = earlier.with_suffix(".tmp")
            temporary.write_text(to_json(config))
            temporary.replace(earlier)
            with (output / "command.txt").open("a") as log:
                log.write(" ".join(sys.argv) + "\n")
            yield changes
    except filelock.Timeout as error:
        raise InputError(
            f"another run is going on in {output}. Wait for it, or choose another --output."
        ) from error
    except PermissionError as error:
        raise InputError(f"can't write in {output}: {error}") from error


def _visible(directory: Path) -> Iterator[Path]:
    return (path for path in directory.iterdir() if not path.name.startswith("."))


def _checkpoints(output: Path) -> Iterator[Path]:
    folder = output / CHECKPOINTS
    return (
        (path for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else iter(())
    )


def _compare(earlier: Path, config: Config, output: Path) -> list[str]:
    changed = differences(from_json(earlier.read_text()), config)
    refused = {name: pair for name, pair in changed.items() if name not in CHANGEABLE}
    if refused:
        listing = "\n".join(
            f"  {name}: {old} there, {new} now" for name, (old, new) in refused.items()
        )
        raise InputError(
            f"{output} belongs to a run with other settings:\n{listing}\nStart this one elsewhere "
            f"with --output DIR, or go on with that one by giving its settings."
        )
    return [f"{name}: {old} -> {new}" for name, (old, new) in changed.items()]


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM only note themselves in the list that is yielded.

    The loop looks at it after every step. A second Ctrl-C interrupts at once.
    """
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        print("\nstopping: saving a checkpoint after this step", file=sys.stderr, flush=True)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def fetch_means(pending: Sequence[dict[str, jax.Array]], *, last_step: int) -> dict[str, float]:
    """Means of the metrics of the last steps, fetched from the device at once.

    Raises:
      DivergedError: where a loss or gradient is not finite, with the first step and what to try.
    """
    fetched = jax.device_get(list(pending))
    for offset, metrics in enumerate(fetched):
        if not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])):
            step = last_step - len(fetched) + 1 + offset
            raise DivergedError(
                f"the loss is not finite at step {step} (loss {metrics['loss']}, gradient norm "
                f"{metrics['grad_norm']}). Try a lower --optimizer.learning-rate, a longer "
                "--optimizer.warmup-steps, a lower --optimizer.clip-norm, or --dtype float32. The "
                "last checkpoint is from before; to go on from it with a lower rate, run the same "
                "command with --optimizer.learning-rate."
            )
    return {name: float(np.mean([m[name] for m in fetched])) for name in fetched[0]}


def evaluation_crops(
    pictures: Sequence[np.ndarray], *, largest: int, most: int = 24
) -> list[np.ndarray]:
    """The first `most` pictures, their centres where a side is longer than `largest` pixels."""
    crops = []
    for index in range(min(len(pictures), most)):
        picture = pictures[index]
        height, width = (min(side, largest) for side in picture.shape[:2])
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        crops.append(picture[top : top + height, left : left + width])
    return crops


def facts(
    config: Config, output: Path, params: Any, splits: Splits, progress: Progress
) -> dict[str, str]:
    """What the start-up table says."""
    devices = jax.devices()
    model, noise = config.model, config.noise
    low, high = noise.sigma_range
    levels = {
        "blind": f"Gaussian, sigma uniform in {low:g}-{high:g} of 255, unknown to the network",
        "gaussian": f"Gaussian, sigma {noise.sigma:g} of 255",
        "poisson_gaussian": f"Poisson-Gaussian, gain {noise.gain:g}, read noise "
        f"{noise.read_noise:g} of 255",
    }
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    start = f"going on at step {progress.step}" if progress.step else "from the start"
    return {
        "run": f"{output} ({start}, to step {config.steps})",
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
        f"{os.cpu_count()} CPU cores, {config.dtype}",
        "network": f"{model.name}, {count:,} parameters, {model.channels} channel(s), attention "
        f"{model.attention} ({model.attend})",
        "noise": levels[noise.kind],
        "data": f"{config.data.source}: {len(splits.train)} to train, {len(splits.validation)} to "
        f"validate, {len(splits.test)} to test"
        + (f"; {len(splits.skipped)} files skipped" if splits.skipped else ""),
        "memory": describe_cache(config.data),
        "batch": f"{config.data.batch_size} crops of {config.data.crop} x {config.data.crop}",
        "seed": str(config.seed),
    }


def versions() -> dict[str, Any]:
    """What made a result: packages, Python, device, and the git revision where there is one."""
    packages = ("sa_flax", "jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision of the checkout that sa_flax runs from; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
