"""What the compiler makes of it against float64: large odd sizes, more than one picture.

Compilers have computed wrong numbers in silence for large arrays alone (`sa_flax.xla_flags`): more
than 32,768 rows of a small product under a sum. So every public function and whole small networks
are compared at such sizes, outputs and gradients: see `tests.in_float64`.
"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sa_flax import functional
from tests.in_float64 import CASES

CORE = ["a small product under a sum", "shuffle_attention", "sge", "centred_and_variance", "DnCNN"]
# Public functions that are not compared, and why.
EXEMPT = {"eca_kernel_size": "a whole number of a whole number"}


def errors(names) -> dict[str, tuple[float, float]]:
    """name -> largest error of outputs and of gradients, in parts of their root mean square."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.in_float64", *names],
        env={**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def limit(name: str) -> float:
    # Halves are common in JPEG's rounding, and fall to either side: a step of a few in a hundred
    # blocks.
    if name.startswith("jpeg"):
        return 1e-2
    # Sums over 67,000 positions in float32, in networks one after the other. What was seen of wrong
    # numbers was wrong by half in a few rows: 4e-3 of the whole, and 0.7 at its worst.
    return 1e-3


def check(names) -> None:
    wrong = {name: found for name, found in errors(names).items() if max(found) >= limit(name)}
    assert not wrong


def test_the_core():
    check(CORE)


@pytest.mark.slow
def test_the_rest():
    check([name for name in CASES if name not in CORE])


def test_every_public_function_is_compared():
    public = {name for name in functional.__all__ if not inspect.isclass(getattr(functional, name))}
    compared = {name.partition(",")[0] for name in CASES}
    assert public - compared == set(EXEMPT), "neither compared in tests/in_float64.py nor exempt"
