"""As a user would: train, stop, resume, look, denoise; every step by its command."""

import json
import os
import shutil
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
from sa_flax.training.__main__ import main
from tests.trainings import TINY, TRAIN, parameters, run

SA_FLAX = [sys.executable, "-m", "sa_flax.cli"]


def stop_midway(
    command: list, environment, cwd: Path, metrics: Path, number: int
) -> tuple[int, str]:
    """Starts a run and sends a signal to it and its worker processes, as a terminal and a scheduler
    do, once it has logged; returns exit code and errors."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 500
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


@pytest.fixture(scope="module")
def newcomers(training_environment, tmp_path_factory) -> tuple[Path, str]:
    """A finished run on the bundled photographs, and what it printed."""
    cwd = tmp_path_factory.mktemp("newcomers")
    done = run([*TRAIN, *TINY, "--steps", "12"], training_environment, cwd)
    return cwd / "runs" / "smoke", done.stdout


@pytest.fixture(scope="module")
def command(few_pictures) -> list:
    """The command of the runs that are compared, by the optimiser of the quick presets."""
    muon = ["--optimizer.kind", "muon"]
    return [*TRAIN, *TINY, *muon, "--data.source", few_pictures, "--steps", "12"]


@pytest.fixture(scope="module")
def uninterrupted(command, training_environment, tmp_path_factory) -> Path:
    """The directory of a finished run."""
    cwd = tmp_path_factory.mktemp("whole")
    run(command, training_environment, cwd)
    return cwd / "runs" / "smoke"


def test_what_a_run_shows_and_leaves(newcomers):
    directory, output = newcomers
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


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_stopped_and_resumed_equals_uninterrupted(
    uninterrupted, command, training_environment, tmp_path, number
):
    """To the bit, although a worker process prepares its data and none did the other's."""
    command = [*command, "--log-every", "1", "--data.workers", "1"]
    directory = tmp_path / "runs" / "smoke"
    metrics = directory / "metrics.jsonl"
    code, errors = stop_midway(command, training_environment, tmp_path, metrics, number)
    assert code == 128 + number, errors
    assert "Traceback" not in errors
    resumed = run(command, training_environment, tmp_path)
    assert "going on at step" in resumed.stdout
    for a, b in zip(parameters(uninterrupted), parameters(directory), strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 13)), "the log has gaps after the resume"


def test_a_network_that_its_run_could_not_write_is_written_at_the_next_start(
    uninterrupted, command, training_environment, tmp_path
):
    """As where the disk was full, or the process killed, right after the last checkpoint."""
    shutil.copytree(uninterrupted, tmp_path / "runs" / "smoke")
    network = tmp_path / "runs" / "smoke" / "network"
    whole = (network / "model.safetensors").read_bytes()
    config = json.loads((network / "config.json").read_text())
    config["training"]["step"] = 3
    (network / "config.json").write_text(json.dumps(config))
    (network / "model.safetensors").write_bytes(b"older")
    run(command, training_environment, tmp_path)
    assert json.loads((network / "config.json").read_text())["training"]["step"] == 12
    assert (network / "model.safetensors").read_bytes() == whole


def test_denoise_with_what_was_trained(newcomers, training_environment, tmp_path):
    picture = PHOTOGRAPHS / "budgie-perched-osprey.jpg"
    denoise = [*SA_FLAX, "denoise", picture, "--model", f"{newcomers[0]}@best"]
    done = run([*denoise, "--output", "denoised"], training_environment, tmp_path)
    assert "512 x 288" in done.stdout
    assert read_picture(tmp_path / "denoised" / picture.name).pixels.shape == (288, 512, 3)


def test_training_that_diverges_says_so(command, training_environment, tmp_path):
    wild = ["--optimizer.learning-rate", "1e30", "--optimizer.warmup-steps", "0"]
    done = run([*command, *wild], training_environment, tmp_path, code=1)
    assert "not finite 10 times in a row" in done.stderr
    assert "--optimizer.learning-rate" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.attention", "shufle"], "Did you mean 'shuffle'"),
        (["--data.source", "small"], "smaller than the training crop of 32 x 32"),
        (["--data.source", "{tmp}/missing"], "no folder"),
        (
            ["--output", "{run}", "--data.source", "{pictures}", "--model.width", "6"],
            "belongs to a run with other",
        ),
        (
            ["--output", "{run}", "--data.source", "{pictures}", "--noise.kind", "photo"],
            "noise.kind: blind there, photo now",
        ),
        (["--resume"], "nothing to resume"),
        (["--noise.sigma-range", "-1", "5"], "can't be negative"),
    ],
)
def test_requests_that_are_wrong(
    uninterrupted,
    few_pictures,
    training_environment,
    tmp_path,
    monkeypatch,
    capsys,
    options,
    message,
):
    """In this process, which need not start JAX anew for each."""
    small = tmp_path / "small"
    small.mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (i, i, i)).save(small / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", training_environment["XDG_CACHE_HOME"])
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # which the command adds to
    places = {"run": uninterrupted, "pictures": few_pictures, "tmp": tmp_path}
    words = [word.format(**places) for word in options]
    # Eight devices are simulated here.
    monkeypatch.setattr(sys, "argv", ["train.py", "smoke", "--data.batch-size", "8", *words])
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert main() == 2
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) < 25
    assert [p.name for p in tmp_path.iterdir()] == ["small"], "something was written"
