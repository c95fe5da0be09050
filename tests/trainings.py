"""Trainings by the command, as small as they get, for tests that stop, kill and compare them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sa_flax.data.builders import PHOTOGRAPHS
from tests.compiling import QUICKLY

ROOT = Path(__file__).parent.parent
TRAIN = [sys.executable, str(ROOT / "train.py"), "smoke"]
# A network as small as it gets, and one quick evaluation level.
TINY = ["--model.width", "4", "--evaluation-sigmas", "25", "--log-every", "4"]


def environment(cache: Path, *flags: str) -> dict[str, str]:
    """What the command runs with: one CPU, and what it compiles kept in `cache`, as users have it.

    Args:
      cache: the user's cache folder.
      flags: further options of XLA.
    """
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "SA_FLAX_COMPILATION_CACHE": "on",
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": " ".join([*QUICKLY, *flags]),
    }


def run(
    command: list, environment: dict[str, str], cwd: Path, code: int = 0
) -> subprocess.CompletedProcess:
    """Runs a command to its end, which must be that exit code, with no traceback on the way."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
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


def save_few_pictures(folder: Path) -> None:
    """Small pieces of bundled photographs by splits; most of a tiny run is looking at pictures."""
    pictures = sorted(PHOTOGRAPHS.glob("*.jpg"))
    for split, files in (
        ("train", pictures[:8]),
        ("validation", pictures[8:10]),
        ("test", pictures[10:12]),
    ):
        (folder / split).mkdir(parents=True)
        for file in files:
            piece = Image.open(file).crop((100, 60, 196, 124))
            piece.save(folder / split / f"{file.stem}.png")
