"""What the tests of the command share: a folder of pictures, and the command in this process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax import xla_flags
from sa_flax.cli import main


@pytest.fixture
def folder(tmp_path) -> Path:
    """in/a.png and in/sub/b.jpg, 30 x 20 pixels of random colours."""
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.jpg"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def in_float32(monkeypatch) -> None:
    """Results are compared with `Denoiser`'s, also where the command would take bfloat16."""
    monkeypatch.setattr(xla_flags, "is_bfloat16_fast", lambda: False)


@pytest.fixture
def sa_flax(run_directory, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command with the tiny network; returns exit code, output and errors."""

    def run(*arguments) -> tuple[int, str, str]:
        words = [str(a) for a in arguments]
        if words[0] == "denoise" and "--model" not in words:
            words += ["--model", str(run_directory)]
        code = main(words)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file in a folder with its content."""
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
