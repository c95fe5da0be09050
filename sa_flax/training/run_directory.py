"""The directory of a run: whose it is, its configuration, whether its checkpoints are whole."""

import contextlib
import datetime
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import orbax.checkpoint as ocp

from sa_flax import strict_json
from sa_flax.config import CHANGEABLE, Config, differences, from_json, to_json, validate
from sa_flax.errors import InputError
from sa_flax.files import write_whole
from sa_flax.models.saved import STARTS
from sa_flax.training.provenance import versions

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
CHECKSUMS = "checksums.json"


def read_config(run: Path) -> Config:
    """The configuration of a run.

    Raises:
      InputError: where `run` is not a run's directory, or its configuration is damaged.
    """
    path = run / CONFIG
    if not os.path.isfile(path):
        raise InputError(
            f"{run} is not the directory of a training run (it has no {CONFIG}). "
            "`python train.py` makes one: runs/quick."
        )
    try:
        config = from_json(path.read_text(encoding="utf-8"))
        validate(config)
    except (InputError, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path}: {error}\nThe file is damaged, or of another version of sa_flax."
        ) from error
    return config


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
    if resume and not (os.path.isfile(earlier) and any(saved_steps(output))):
        raise InputError(
            f"nothing to resume in {output}. Leave --resume out to start there, or give the "
            "directory of an earlier run with --output."
        )
    if not os.path.isfile(earlier) and os.path.isdir(output) and any(_visible(output)):
        raise InputError(
            f"{output} is not empty and is not a training run's directory. Choose another with "
            "--output."
        )
    changes = _compare(config, output) if os.path.isfile(earlier) else []
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
        write_whole(earlier, to_json(config))
        with (output / STARTS).open("a") as log:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            entry = {"time": now, "command": shlex.join(sys.argv), **versions()}
            log.write(strict_json.dumps(entry) + "\n")
        yield changes
    finally:
        lock.release()


def earlier_config(output: Path) -> Config | None:
    """The configuration of the run that stopped in `output`; None for a new one, and where it can't
    be read, which `claim` complains of."""
    try:
        return read_config(output)
    except InputError:
        return None


def _visible(directory: Path) -> Iterator[Path]:
    return (path for path in directory.iterdir() if not path.name.startswith("."))


def saved_steps(output: Path) -> Iterator[Path]:
    """The checkpoints in a run's directory, whole or not."""
    folder = output / CHECKPOINTS
    return (
        (path for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else iter(())
    )


def _compare(config: Config, output: Path) -> list[str]:
    changed = differences(read_config(output), config)
    refused = {name: pair for name, pair in changed.items() if name not in CHANGEABLE}
    if refused:
        listing = "\n".join(
            f"  {name}: {old} there, {new} now"
            for name, (old, new) in refused.items()
            if not name.startswith("noise.") or None not in (old, new)  # what one kind has alone
        )
        raise InputError(
            f"{output} belongs to a run with other settings:\n{listing}\nStart this one elsewhere "
            f"with --output DIR, or go on with that one by giving its settings."
        )
    return [f"{name}: {old} -> {new}" for name, (old, new) in changed.items()]


def newest_valid(
    manager: ocp.CheckpointManager,
    args: Any,
    broken: list[str],
    find_damage: Callable[[Path], str] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yields step and content of the newest checkpoint that is whole and can be read, if any.

    Args:
      manager: manages the folder of checkpoints.
      args: what to restore.
      broken: gets a line, "step: reason", for every newer checkpoint.
      find_damage: says what is wrong with a checkpoint's folder, or ""; by default `damage`.

    Raises:
      InputError: where there are checkpoints, but none is any good.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        damaged = (find_damage or damage)(Path(manager.directory) / str(step))
        if damaged:
            broken.append(f"{step}: {damaged}")
            continue
        try:
            yield step, manager.restore(step, args=args)
            return
        except Exception as error:  # tensorstore, JSON and file errors have no common class
            reason = str(error).strip().splitlines()
            broken.append(f"{step}: {reason[0][:200] if reason else type(error).__name__}")
    if steps:
        listing = "\n".join(f"  step {line}" for line in broken)
        raise InputError(
            f"none of the checkpoints in {manager.directory} can be read:\n{listing}\n"
            "Restore them from a backup, or train in another directory (--output)."
        )


def write_checksums(checkpoint: Path) -> None:
    """Notes the SHA-256 of every file of a finished checkpoint, in checksums.json beside them."""
    sums = {str(path.relative_to(checkpoint)): _sha256(path) for path in _files(checkpoint)}
    write_whole(checkpoint / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's files by their checksums; "" where nothing is.

    A checkpoint without checksums passes: its run was killed right after it was finished.
    """
    noted = checkpoint / CHECKSUMS
    if not noted.is_file():
        return ""
    try:
        sums = json.loads(noted.read_text())
        for name, expected in sums.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if _sha256(path) != expected:
                return f"{name} is not as it was written (its SHA-256 differs)"
    except (OSError, ValueError, AttributeError) as error:
        return f"{CHECKSUMS}: {error}"
    return ""


def _files(checkpoint: Path) -> Iterator[Path]:
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / CHECKSUMS:
            yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
