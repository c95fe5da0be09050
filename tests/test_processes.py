"""Two real processes that train together, against one with the same batches."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from sa_flax.training.run_directory import CHECKPOINTS
from tests.test_end_to_end import ROOT, TINY, TRAIN, parameters, run

COMMAND = [*TRAIN, *TINY, "--steps", "12"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Two devices for each process."""
    cache = tmp_path_factory.mktemp("cache")
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def start_pair(command: list[str], environment, cwd: Path) -> list[subprocess.Popen]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    together = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    return [
        subprocess.Popen(
            [*command, *together, "--process-id", str(index)],
            cwd=cwd,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]


def finish(pair: list[subprocess.Popen]) -> list[tuple[int, str]]:
    try:
        outputs = [process.communicate(timeout=500)[0] for process in pair]
    finally:
        for process in pair:
            process.kill()
    return [(process.returncode, text) for process, text in zip(pair, outputs, strict=True)]


def losses(directory: Path) -> dict[int, float]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return {e["step"]: e["train/loss"] for e in entries if "train/loss" in e}


@pytest.fixture(scope="module")
def alone(environment, tmp_path_factory) -> Path:
    """The directory of a run by one process with the four devices of two."""
    cwd = tmp_path_factory.mktemp("alone")
    flags = environment["XLA_FLAGS"].replace("count=2", "count=4")
    run(COMMAND, {**environment, "XLA_FLAGS": flags}, cwd)
    return cwd / "runs" / "smoke"


def assert_same_run(directory: Path, alone: Path) -> None:
    # The same batches and noise; sums over devices in another order, which Adam's division by the
    # root of a small second moment enlarges: at a rate of 1e-3, 12 steps move a parameter by up to
    # 0.01, of which a hundredth is allowed for.
    ours, theirs = losses(directory), losses(alone)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
    for a, b in zip(parameters(directory), parameters(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_two_processes_train_as_one(alone, environment, tmp_path):
    """With everything that can be split over them split."""
    command = [*COMMAND, "--mesh.fsdp", "4", "--data.workers", "1"]
    (first, printed), (second, quiet) = finish(start_pair(command, environment, tmp_path))
    assert (first, second) == (0, 0), printed + quiet
    assert "2 processes" in printed
    assert "step     12/12  loss" in printed
    assert "loss" not in quiet, "only the first process reports"
    directory = tmp_path / "runs" / "smoke"
    assert len((directory / "starts.jsonl").read_text().splitlines()) == 1
    assert_same_run(directory, alone)


def test_a_signal_to_one_stops_both_and_one_alone_goes_on(alone, environment, tmp_path):
    directory = tmp_path / "runs" / "smoke"
    command = [*COMMAND, "--log-every", "1", "--checkpoint-every", "1"]
    pair = start_pair(command, environment, tmp_path)
    deadline = time.monotonic() + 300
    while not list((directory / CHECKPOINTS).glob("[0-9]")) and time.monotonic() < deadline:
        assert pair[0].poll() is None, pair[0].communicate()[0]
        time.sleep(0.02)
    pair[1].send_signal(signal.SIGTERM)
    (first, printed), (second, quiet) = finish(pair)
    assert (first, second) == (128 + signal.SIGTERM,) * 2, printed + quiet
    assert "stopped at step 10" in printed, "processes agree at every tenth step"
    assert "Traceback" not in printed + quiet
    resumed = run(command, environment, tmp_path)
    assert "going on at step 10" in resumed.stdout
    for a, b in zip(parameters(directory), parameters(alone), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_request_that_is_wrong_ends_both(alone, environment, tmp_path):
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "mine.txt").write_text("mine")
    for code, text in finish(start_pair(COMMAND, environment, tmp_path)):
        assert code == 2, text
        assert "is not a training run's directory" in text
        assert "Traceback" not in text


def test_processes_that_are_told_too_little(environment, tmp_path):
    done = run([*COMMAND, "--distributed", "--num-processes", "2"], environment, tmp_path, code=2)
    assert "give all of --coordinator" in done.stderr
    done = run([*COMMAND, "--distributed"], environment, tmp_path, code=2)
    assert "--coordinator HOST:PORT" in done.stderr
