"""As a user would: train, stop, resume, look, denoise; every step by its command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax.data.builders import PHOTOGRAPHS
from sa_flax.pictures import read_picture

ROOT = Path(__file__).parent.parent
TRAIN = [sys.executable, str(ROOT / "train.py"), "smoke"]
SA_FLAX = [sys.executable, "-m", "sa_flax.cli"]
# A network as small as it gets, and one quick evaluation level.
TINY = ["--model.width", "4", "--evaluation-sigmas", "25", "--log-every", "4"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("cache")
    flags = "--xla_backend_optimization_level=0"  # compiling takes longer than training here
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def run(command: list, environment, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def parameters(run_directory: Path) -> list[np.ndarray]:
    """All arrays of the newest checkpoint: parameters, moments, average."""
    import jax

    from sa_flax.training.checkpoint import Checkpoints
    from sa_flax.training.run_directory import read_config
    from sa_flax.training.state import create_state, make_optimizer

    config = read_config(run_directory)
    _, state = create_state(config, make_optimizer(config.optimizer, config.steps))
    checkpoints = Checkpoints(run_directory)
    restored = checkpoints.restore(state)
    checkpoints.close()
    assert restored is not None
    assert restored[1] == config.steps
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored[0])]


def stop_midway(
    command: list, environment, cwd: Path, metrics: Path, number: int
) -> tuple[int, str]:
    """Starts a run and sends it a signal once it has logged; returns exit code and errors."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 500
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory) -> tuple[Path, str]:
    """A finished run and what it printed."""
    cwd = tmp_path_factory.mktemp("whole")
    done = run([*TRAIN, *TINY, "--steps", "12"], environment, cwd)
    return cwd / "runs" / "smoke", done.stdout


def test_what_a_run_shows_and_leaves(uninterrupted):
    directory, output = uninterrupted
    for expected in (
        "26 to train, 4 to validate, 6 to test",
        "step     12/12  loss",
        " dB  rate ",
        "(all 6 test pictures)",
        "non-local means",
        "next: sa-flax denoise",
    ):
        assert expected in output
    results = json.loads((directory / "evaluation.json").read_text())
    scores = {row["method"]: row for row in results["results"]}
    assert scores["noisy"]["psnr"] == pytest.approx(20.17, abs=0.05)
    assert 0 < scores["smoke"]["ssim"] < 1
    assert results["steps_of_this_start"] == 12
    assert results["test_pictures"] == {"measured": 6, "of": 6}
    (start,) = [json.loads(line) for line in (directory / "starts.jsonl").read_text().splitlines()]
    assert "train.py smoke" in start["command"]
    for record in (results, start):
        assert record["versions"]["jax"]
        assert record["device"]
    for name in (
        "config.json",
        "starts.jsonl",
        "metrics.jsonl",
        "learning_curve.png",
        "tensorboard",
        "network/model.safetensors",
        "best/model.safetensors",
    ):
        assert (directory / name).exists(), name
    sample = read_picture(directory / "samples" / "test" / "picture0_sigma25.png")
    assert sample.pixels.shape[1] == 3 * 512 + 2 * 4
    steps = [
        json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps)


def test_the_same_seed_gives_the_same_bits_and_worker_processes_change_nothing(
    uninterrupted, environment, tmp_path
):
    run([*TRAIN, *TINY, "--steps", "12", "--data.workers", "1"], environment, tmp_path)
    again = parameters(tmp_path / "runs" / "smoke")
    for a, b in zip(parameters(uninterrupted[0]), again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_equals_uninterrupted(uninterrupted, environment, tmp_path, number):
    command = [*TRAIN, *TINY, "--steps", "12", "--log-every", "1"]
    directory = tmp_path / "runs" / "smoke"
    code, errors = stop_midway(command, environment, tmp_path, directory / "metrics.jsonl", number)
    assert code == 128 + number, errors
    assert "Traceback" not in errors
    resumed = run(command, environment, tmp_path)
    assert "going on at step" in resumed.stdout
    for a, b in zip(parameters(uninterrupted[0]), parameters(directory), strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [
        json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert sorted(set(steps)) == list(range(1, 13)), "the log has gaps after the resume"


def test_denoise_with_what_was_trained(uninterrupted, environment, tmp_path):
    picture = PHOTOGRAPHS / "budgie-perched-osprey.jpg"
    done = run(
        [
            *SA_FLAX,
            "denoise",
            picture,
            "--model",
            f"{uninterrupted[0]}@best",
            "--output",
            "denoised",
        ],
        environment,
        tmp_path,
    )
    assert "512 x 288" in done.stdout
    assert read_picture(tmp_path / "denoised" / picture.name).pixels.shape == (288, 512, 3)


def test_training_that_diverges_says_so(environment, tmp_path):
    done = run(
        [*TRAIN, *TINY, "--optimizer.learning-rate", "1e30", "--optimizer.warmup-steps", "0"],
        environment,
        tmp_path,
        code=1,
    )
    assert "not finite 10 times in a row" in done.stderr
    assert "--optimizer.learning-rate" in done.stderr


def test_requests_that_are_wrong(uninterrupted, environment, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (i, i, i)).save(small / f"{i}.png")
    wrong = [
        (["--model.attention", "shufle"], "Did you mean 'shuffle'"),
        (["--data.source", small], "smaller than the training crop of 32 x 32"),
        (["--data.source", tmp_path / "missing"], "no folder"),
        (["--output", uninterrupted[0], "--model.width", "6"], "belongs to a run with other"),
        (["--resume"], "nothing to resume"),
        (["--noise.sigma-range", "-1", "5"], "can't be negative"),
    ]
    for options, message in wrong:
        done = run([*TRAIN, *options], environment, tmp_path, code=2)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) < 25
    assert [p.name for p in tmp_path.iterdir()] == ["small"], "something was written"
