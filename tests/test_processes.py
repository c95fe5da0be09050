"""Two real processes that train together, against one with the same batches."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sa_flax.errors import InputError
from sa_flax.training import processes
from sa_flax.training.run_directory import CHECKPOINTS, saved_steps
from tests.trainings import TINY, TRAIN, parameters, run
from tests.trainings import environment as with_cache

DEVICES = "--xla_force_host_platform_device_count={}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Two devices for each process."""
    return with_cache(tmp_path_factory.mktemp("cache"), DEVICES.format(2))


@pytest.fixture(scope="module")
def endless(few_pictures) -> list[str]:
    """A training, but for how long it takes."""
    return [*TRAIN, *TINY, "--data.source", str(few_pictures)]


@pytest.fixture(scope="module")
def command(endless) -> list[str]:
    """The training that two processes and one are compared by."""
    return [*endless, "--steps", "12"]


def start_pair(command: list[str], environment, cwd: Path) -> list[subprocess.Popen]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    together = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    return [
        subprocess.Popen(
            [*command, *together, "--process-id", str(index)],
            cwd=cwd,
            env=environment,
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
def alone(command, environment, tmp_path_factory) -> Path:
    """The directory of a run by one process with the four devices of two."""
    cwd = tmp_path_factory.mktemp("alone")
    run(command, with_cache(Path(environment["XDG_CACHE_HOME"]), DEVICES.format(4)), cwd)
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


def test_two_processes_train_as_one(command, alone, environment, tmp_path):
    """With everything that can be split over them split."""
    command = [*command, "--mesh.fsdp", "4", "--data.workers", "1"]
    (first, printed), (second, quiet) = finish(start_pair(command, environment, tmp_path))
    assert (first, second) == (0, 0), printed + quiet
    assert "2 processes" in printed
    assert "step     12/12  loss" in printed
    assert "loss" not in quiet, "only the first process reports"
    directory = tmp_path / "runs" / "smoke"
    assert len((directory / "starts.jsonl").read_text().splitlines()) == 1
    assert_same_run(directory, alone)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_one_alone_goes_on(command, alone, environment, tmp_path):
    directory = tmp_path / "runs" / "smoke"
    command = [*command, "--log-every", "1", "--checkpoint-every", "1"]
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


@pytest.mark.slow
def test_when_one_dies_the_other_says_so_and_what_is_saved_goes_on(endless, environment, tmp_path):
    directory = tmp_path / "runs" / "smoke"
    command = [*endless, "--steps", "400", "--checkpoint-every", "3"]
    pair = start_pair(command, environment, tmp_path)
    deadline = time.monotonic() + 300
    while not list(saved_steps(directory)) and time.monotonic() < deadline:
        assert pair[0].poll() is None, pair[0].communicate()[0]
        time.sleep(0.02)
    pair[1].kill()
    (code, text), _ = finish(pair)
    assert code == 1, text
    assert "train.py: process 0 has lost process 1 of this run" in text
    assert "Traceback" not in text
    kept = [int(path.name) for path in saved_steps(directory)]
    assert f"The newest checkpoint is of step {max(kept)}." in text
    # Killed between two checkpoints at most three steps after the newest.
    assert max(kept) % 3 == 0


@pytest.mark.slow
def test_when_one_fails_alone_both_say_so_and_end(command, environment, tmp_path):
    """Process 0, which writes the pictures: another file stands in their place."""
    directory = tmp_path / "runs" / "smoke"
    pair = start_pair([*command, "--checkpoint-every", "4"], environment, tmp_path)
    while not directory.is_dir() and pair[0].poll() is None:
        time.sleep(0.02)
    (directory / "samples").touch()
    (first, printed), (second, quiet) = finish(pair)
    assert (first, second) == (1, 1), printed + quiet
    assert "samples/0000010/picture0_sigma25.png: can't be written" in printed
    assert "process 1 has lost process 0 of this run. The newest checkpoint is of step 8" in quiet
    assert "Traceback" not in printed + quiet


def test_a_wrong_host_ends_by_itself_and_by_a_signal(environment, tmp_path):
    """Process 1 finds nobody; process 0 is found by nobody. Both hear SIGTERM while they wait."""
    code = (
        "import signal, sys; from sa_flax.errors import exit_code;"
        "from sa_flax.training import processes;"
        "signal.signal(signal.SIGTERM, signal.default_int_handler);"
        "print('ready', flush=True);"
        "sys.exit(exit_code('train.py', lambda: processes.start("
        "'127.0.0.1:9', 2, int(sys.argv[1]), longest_wait=float(sys.argv[2])) or 0))"
    )

    def begin(number: int, wait: int) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", code.replace(":9'", f":{port}'"), str(number), str(wait)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    alone = begin(1, 1)
    assert "no process answers at 127.0.0.1" in alone.communicate(timeout=300)[1]
    assert alone.returncode == 2
    first = begin(0, 1)
    assert "not all of 2 processes have met" in first.communicate(timeout=300)[1]
    assert first.returncode == 2
    patient = begin(0, 600)
    assert patient.stdout
    assert patient.stdout.readline() == "ready\n"
    time.sleep(2)
    patient.send_signal(signal.SIGTERM)
    assert "interrupted" in patient.communicate(timeout=60)[1]
    assert patient.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("machine", 2, 0), "HOST:PORT.* for example machine:8476; got 'machine'"),
        (("machine:", 2, 0), "must be HOST:PORT"),
        (("machine:http", 2, 0), "must be HOST:PORT"),
        (("machine:99999", 2, 0), "must be HOST:PORT"),
        (("machine:1", 2, 2), "--process-id must be from 0 to 1"),
        (("machine:1", 0, 0), "--process-id must be"),
    ],
)
def test_coordinators_that_can_not_be(arguments, message):
    with pytest.raises(InputError, match=message):
        processes.check_coordinator(*arguments)
    assert processes.check_coordinator("[::1]:80", 1, 0) == ("::1", 80)


def test_a_request_that_is_wrong_ends_both(command, environment, tmp_path):
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "mine.txt").write_text("mine")
    for code, text in finish(start_pair(command, environment, tmp_path)):
        assert code == 2, text
        assert "is not a training run's directory" in text
        assert "Traceback" not in text


def test_processes_that_are_told_too_little(command, environment, tmp_path):
    done = run([*command, "--distributed", "--num-processes", "2"], environment, tmp_path, code=2)
    assert "give all of --coordinator" in done.stderr
    done = run([*command, "--distributed"], environment, tmp_path, code=2)
    assert "--coordinator HOST:PORT" in done.stderr
