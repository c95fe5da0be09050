"""Worker processes: the same batches as threads make, whatever signals come, and a clear error when
one dies."""

import os
import signal
import subprocess
import sys

import pytest

from sa_flax.config import DataConfig
from sa_flax.data.pipeline import Batches, describe_cache
from sa_flax.errors import WorkerDiedError

# grain's workers import the main module, so this is one, and not pytest.
SCRIPT = """
import multiprocessing, os, signal, sys, time
import numpy as np
from sa_flax.config import DataConfig
from sa_flax.data.builders import PHOTOGRAPHS, open_splits
from sa_flax.data.pipeline import Pictures, training_batches
from sa_flax.errors import InputError, WorkerDiedError


def main():
    def batches(workers, crop=16, source="photographs"):
        splits = open_splits(source, directory=sys.argv[1])
        pictures = Pictures(splits.train, channels=3, cache_bytes=2**24)
        config = DataConfig(crop=crop, batch_size=2, workers=workers)
        return training_batches(pictures, config, seed=0)

    by_threads, by_workers = batches(0), batches(2)
    for step in range(10):
        np.testing.assert_array_equal(next(by_threads)["clean"], next(by_workers)["clean"])
        for child in multiprocessing.active_children() if step == 1 else ():  # both are at work
            os.kill(child.pid, signal.SIGTERM)
            os.kill(child.pid, signal.SIGINT)
    by_threads.close()
    folder = [batches(workers, source=str(PHOTOGRAPHS)) for workers in (0, 2)]
    for _ in range(5):
        first, second = (next(some)["clean"] for some in folder)
        np.testing.assert_array_equal(first, second)
    for some in folder:
        some.close()
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    started = time.monotonic()
    try:
        for _ in range(1000):
            next(by_workers)
    except WorkerDiedError as error:
        print(f"{time.monotonic() - started:.0f} s: {error}")
    by_workers.close()
    try:
        next(batches(1, crop=9999))
    except InputError as error:
        print(error, flush=True)
    orphans = batches(1)
    next(orphans)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
"""


def test_a_killed_worker_is_an_error_and_no_hang(tmp_path):
    """And workers end with the main process, however it does: they hold the pipe it printed to."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    finished = subprocess.run(
        [sys.executable, script, tmp_path / "cache"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])[1:]},
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    died, too_small = finished.stdout.splitlines()
    assert float(died.split()[0]) < 30
    assert "killed (signal 9), perhaps for lack of memory" in died
    assert "Lower --data.cache-mb or --data.workers" in died
    assert "smaller than the training crop of 9999" in too_small


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (-signal.SIGKILL, "Lower --data.cache-mb"),
        (-signal.SIGSEGV, "ended by signal 11"),
        (1, "ended with exit code 1"),
    ],
)
def test_how_a_worker_ended(code, message):
    def failing():
        yield 0
        raise RuntimeError(f"Worker process was terminated unexpectedly with exit code {code}.")

    batches = Batches(failing())
    assert next(batches) == 0
    with pytest.raises(WorkerDiedError, match=message):
        next(batches)


def test_other_errors_stay_what_they_are():
    def failing():
        raise RuntimeError("something else")
        yield

    with pytest.raises(RuntimeError, match="something else"):
        next(Batches(failing()))


def test_the_memory_that_caches_may_take_is_said():
    assert describe_cache(DataConfig(cache_mb=7)) == "decoded pictures, up to 7 MB"
    assert "7 MB in each of 3 worker" in describe_cache(DataConfig(cache_mb=7, workers=3))
