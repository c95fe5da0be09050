"""A run and its surroundings: its directory, its signals, what it is, what it met."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shlex
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
from sa_flax.data.pipeline import describe_cache
from sa_flax.data.splits import Example, Splits
from sa_flax.errors import DivergedError, InputError
from sa_flax.inference.run_directory import CHECKPOINTS, CONFIG, Progress

STARTS = "starts.jsonl"


@contextlib.contextmanager
def claim(output: Path, config: Config, *, resume: bool) -> Iterator[list[str]]:
    """Makes `output` this run's directory, or takes up the run that stopped there.

    Every start is noted in starts.jsonl: time, command, versions, device, git revision.

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
    lock = filelock.FileLock(output / ".lock", timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"another run is going on in {output}. Wait for it, or choose another --output."
        ) from error
    except OSError as error:
        raise InputError(
            f"can't make the directory {output} or write in it ({error.strerror}). Choose another "
            "--output."
        ) from error
    try:
        temporary = earlier.with_suffix(".tmp")
        temporary.write_text(to_json(config))
        temporary.replace(earlier)
        with (output / STARTS).open("a") as log:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            entry = {"time": now, "command": shlex.join(sys.argv), **versions()}
            log.write(json.dumps(entry) + "\n")
        yield changes
    finally:
        lock.release()


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


class Monitor:
    """Fetches metrics from the device, and stops a run whose updates are skipped again and again.

    Args:
      most_in_row: so many skipped updates in a row stop the run.

    Attributes:
      skipped: updates skipped so far, because their loss or gradient was not finite.
    """

    def __init__(self, most_in_row: int):
        self.skipped, self._in_row, self._most = 0, 0, most_in_row

    def means(self, pending: Sequence[dict[str, jax.Array]], *, last_step: int) -> dict[str, float]:
        """Means of the metrics of the last steps, fetched at once; skipped: how many were.

        Steps that were skipped are left out of the other means; where all were, there are none.

        Raises:
          DivergedError: where too many in a row were skipped, with the step and what to try.
        """
        fetched = jax.device_get(list(pending))
        for offset, metrics in enumerate(fetched):
            self._in_row = self._in_row + 1 if metrics["skipped"] else 0
            self.skipped += int(metrics["skipped"])
            if self._in_row == self._most:
                step = last_step - len(fetched) + 1 + offset
                raise DivergedError(
                    f"loss or gradient was not finite {self._most} times in a row, at step {step} "
                    f"the last time (loss {metrics['loss']}, gradient norm "
                    f"{metrics['grad_norm']}). Try a lower --optimizer.learning-rate, a longer "
                    "--optimizer.warmup-steps, a lower --optimizer.clip-norm, or --dtype float32. "
                    "To go on from the last checkpoint with a lower rate, run the same command "
                    "with --optimizer.learning-rate."
                )
        good = [m for m in fetched if not m["skipped"]]
        names = [name for name in fetched[0] if name != "skipped"] if good else []
        means = {name: float(np.mean([m[name] for m in good])) for name in names}
        return {**means, "skipped": float(len(fetched) - len(good))}


def evaluation_crops(examples: Sequence[Example], *, largest: int, most: int = 24) -> list[Example]:
    """The first `most` examples, their centres where a side is longer than `largest` pixels."""
    crops = []
    for index in range(min(len(examples), most)):
        example = examples[index]
        shape = example["clean"].shape
        height, width = (min(side, largest) for side in shape[:2])
        top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
        window = np.s_[top : top + height, left : left + width]
        crops.append({name: picture[window] for name, picture in example.items()})
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
    attention = f", attention {model.attention} ({model.attend})"
    split = [
        f"{what} over {n}"
        for what, n in (("state", config.mesh.fsdp), ("height", config.mesh.height))
        if n > 1
    ]
    start = f"going on at step {progress.step}" if progress.step else "from the start"
    return {
        "run": f"{output} ({start}, to step {config.steps})",
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
        f"{os.cpu_count()} CPU cores, {config.dtype}"
        + (f", {jax.process_count()} processes" if jax.process_count() > 1 else "")
        + "".join(f", {s}" for s in split),
        "network": f"{model.name}, {count:,} parameters, {model.channels} channel(s)"
        + (attention if model.name == "attention_unet" else ""),
        "noise": levels[noise.kind],
        "data": f"{config.data.source}: {len(splits.train)} to train, {len(splits.validation)} to "
        f"validate, {len(splits.test)} to test"
        + (f"; {len(splits.skipped)} left out, see below" if splits.skipped else ""),
        "memory": describe_cache(config.data),
        "batch": f"{config.data.batch_size} crops of {config.data.crop} x {config.data.crop}"
        + (f", {config.optimizer.accumulate} parts" if config.optimizer.accumulate > 1 else ""),
        "seed": str(config.seed),
    }


def save_results(
    output: Path, rows: Sequence[dict[str, Any]], *, steps: int, seconds: float
) -> None:
    """Writes evaluation.json: what was measured, how long this start of the run took, by what.

    `steps` are those of this start alone: a run that was resumed, or evaluated anew, had more.
    """
    results = {
        "results": rows,
        "steps_of_this_start": steps,
        "seconds": round(seconds, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **versions(),
    }
    path = output / "evaluation.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    temporary.replace(path)


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
    """The revision of the checkout that sa_flax runs from, with "-dirty" where files differ from
    it; None for an installed package."""
    here = str(Path(__file__).parent)
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
