"""Training that is killed: at any moment, also while it writes, and started again by the same
command, it ends with the bits of a run that was never killed."""

import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from sa_flax.training.run_directory import CHECKPOINTS
from tests.trainings import TINY, TRAIN, parameters, run

# A checkpoint at every step: half of the time is spent writing one.
FREQUENT = ["--checkpoint-every", "1", "--log-every", "1", "--evaluate-every", "15"]


def newest(directory: Path) -> int:
    return max(
        (int(p.name) for p in (directory / CHECKPOINTS).glob("[0-9]*") if p.name.isdigit()),
        default=-1,
    )


def kill_once(command: list[str], environment, cwd: Path, delay: float) -> None:
    """Starts the run, lets it come to a new checkpoint and `delay` seconds more, and kills it."""
    directory = cwd / "runs" / "smoke"
    before = newest(directory)
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 300
    while newest(directory) <= before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended by itself:\n{output}"
    assert "Traceback" not in output
    assert "skipped a broken checkpoint" not in output, "half a checkpoint was taken for a whole"


def survive(
    kills: int, steps: int, longest_delay: float, pictures: Path, environment, tmp_path
) -> int:
    """Kills a run `kills` times; returns how many of them left a checkpoint half-written."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    folder = killed / "runs" / "smoke" / CHECKPOINTS
    command = [*TRAIN, *TINY, "--data.source", str(pictures), "--steps", str(steps)]
    moments = random.Random(0)
    unfinished = 0
    for _ in range(kills):
        kill_once([*command, *FREQUENT], environment, killed, moments.uniform(0, longest_delay))
        unfinished += any("tmp" in path.name for path in folder.iterdir())
    done = run([*command, *FREQUENT], environment, killed)
    assert "going on at step" in done.stdout
    run(command, environment, whole)
    for a, b in zip(parameters(whole / "runs" / "smoke"), parameters(folder.parent), strict=True):
        np.testing.assert_array_equal(a, b)
    left = [path.name for path in folder.iterdir()]
    assert all(name.isdigit() for name in left), f"left behind: {left}"
    starts = (folder.parent / "starts.jsonl").read_text().splitlines()
    assert len(starts) == kills + 1
    return unfinished


def test_killed_once(few_pictures, training_environment, tmp_path):
    survive(1, 15, 0.3, few_pictures, training_environment, tmp_path)


@pytest.mark.slow
def test_killed_twenty_times(few_pictures, training_environment, tmp_path):
    unfinished = survive(20, 800, 2.0, few_pictures, training_environment, tmp_path)
    assert unfinished > 3, "too few met a half-written checkpoint"
