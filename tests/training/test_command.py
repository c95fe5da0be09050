"""The command of training before it trains."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [["train.py"], ["-m", "sa_flax.training"]])
def test_a_signal_during_the_imports_leaves_no_traceback(number, command, tmp_path):
    """A package that is found first, and takes its time."""
    (tmp_path / "tyro.py").write_text(
        "import time\n"
        "print('importing', flush=True)\n"
        "try:\n    time.sleep(600)\n"
        "except BaseException as error:\n    raise ImportError('interrupted') from error\n"
    )
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == "train.py: interrupted\n"
