"""Checkpoints: exact round trip, what is kept, and broken ones."""

import dataclasses
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sa_flax.config import Config, ModelConfig, to_json
from sa_flax.errors import InputError, StorageError
from sa_flax.training import run_directory
from sa_flax.training.checkpoint import Checkpoints
from sa_flax.training.run_directory import (
    CHECKPOINTS,
    CHECKSUMS,
    CONFIG,
    damage,
)
from sa_flax.training.state import TrainState, create_state, make_optimizer

CONFIGURATION = Config(model=ModelConfig(width=4, levels=2, channels=1))


@pytest.fixture(scope="module")
def fresh() -> TrainState:
    optimizer = make_optimizer(CONFIGURATION.optimizer, CONFIGURATION.steps)
    return create_state(CONFIGURATION, optimizer)[1]


def at_step(state: TrainState, step: int) -> TrainState:
    moved = jax.tree.map(lambda x: x + step, state)
    return moved._replace(ema=jax.tree.map(lambda x: x + 2 * step, state.ema))


def save(directory: Path, fresh: TrainState, steps: dict[int, float | None], keep: int = 2) -> None:
    checkpoints = Checkpoints(directory, keep=keep)
    for step, psnr in steps.items():
        checkpoints.save(at_step(fresh, step), step, psnr=psnr)
    checkpoints.close()


def restore(directory: Path, fresh: TrainState):
    checkpoints = Checkpoints(directory)
    try:
        return checkpoints.restore(fresh)
    finally:
        checkpoints.close()


def truncate(checkpoint: Path) -> None:
    files = [p for p in checkpoint.rglob("*") if p.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_round_trip_is_exact(tmp_path, fresh):
    save(tmp_path, fresh, {7: None})
    state, step, broken = restore(tmp_path, fresh)
    jax.tree.map(np.testing.assert_array_equal, state, at_step(fresh, 7))
    assert step == 7
    assert broken == []


def test_nothing_to_restore(tmp_path, fresh):
    assert restore(tmp_path, fresh) is None


def test_the_newest_and_the_best_are_kept(tmp_path, fresh):
    save(tmp_path, fresh, {1: 20.0, 2: 31.0, 3: 29.0, 4: None, 5: None})
    kept = sorted(p.name for p in (tmp_path / CHECKPOINTS).iterdir() if p.name.isdigit())
    assert kept == ["2", "4", "5"]


def test_the_best_is_kept_by_a_run_that_goes_on(tmp_path, fresh):
    save(tmp_path, fresh, {1: 20.0, 2: 30.0})
    save(tmp_path, fresh, {3: 25.0, 4: 26.0, 5: None, 6: 24.0})
    assert {p.name for p in (tmp_path / CHECKPOINTS).iterdir() if p.name.isdigit()} == {
        "2",
        "5",
        "6",
    }


def test_a_truncated_newest_checkpoint_gives_way_to_the_one_before(tmp_path, fresh):
    save(tmp_path, fresh, {1: None, 2: None})
    truncate(tmp_path / CHECKPOINTS / "2")
    state, step, broken = restore(tmp_path, fresh)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, state, at_step(fresh, 1))
    assert [line.split(":")[0] for line in broken] == ["2"]
    # Step 2 can be saved anew; what was broken is kept aside.
    save(tmp_path, fresh, {2: None})
    assert restore(tmp_path, fresh)[1] == 2
    assert (tmp_path / CHECKPOINTS / "broken-2").is_dir()


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0b100
    path.write_bytes(content)


def test_one_flipped_bit_anywhere_is_noticed(tmp_path, fresh):
    save(tmp_path, fresh, {1: None, 2: None})
    folder = tmp_path / CHECKPOINTS
    files = [p.relative_to(folder / "2") for p in (folder / "2").rglob("*") if p.is_file()]
    flipped = [f for f in files if (folder / "2" / f).stat().st_size and f.name != CHECKSUMS]
    assert len(flipped) > 5
    for name in flipped:
        flip_one_bit(folder / "2" / name)
        assert damage(folder / "2") == f"{name} is not as it was written (its SHA-256 differs)"
        flip_one_bit(folder / "2" / name)
    assert damage(folder / "2") == ""
    flip_one_bit(folder / "2" / flipped[-1])
    state, step, broken = restore(tmp_path, fresh)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, state, at_step(fresh, 1))
    assert broken == [f"2: {flipped[-1]} is not as it was written (its SHA-256 differs)"]


def test_a_missing_file_is_named_and_missing_checksums_pass(tmp_path, fresh):
    save(tmp_path, fresh, {1: None, 2: None})
    folder = tmp_path / CHECKPOINTS
    (folder / "2" / CHECKSUMS).unlink()  # killed between the checkpoint and its checksums
    (folder / "1" / "ema" / "_METADATA").unlink()
    assert damage(folder / "1") == "ema/_METADATA is missing"
    assert restore(tmp_path, fresh)[1] == 2


def test_a_disk_with_too_little_room(tmp_path, fresh, monkeypatch):
    save(tmp_path, fresh, {1: None})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(StorageError, match=r"step 2 .*it takes 1.0 MB; 1.0 MB are free.*Make room"):
        save(tmp_path, fresh, {2: None})
    assert [p.name for p in (tmp_path / CHECKPOINTS).iterdir()] == ["1"]


def save_twice_and_fail_the_second_time(directory: Path) -> None:
    """A limit on the size of files stands for a full disk: the same calls fail."""
    optimizer = make_optimizer(CONFIGURATION.optimizer, CONFIGURATION.steps)
    fresh = create_state(CONFIGURATION, optimizer)[1]
    checkpoints = Checkpoints(directory)
    checkpoints.save(at_step(fresh, 1), 1)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        checkpoints.save(at_step(fresh, 2), 2)
    except StorageError as error:
        print(error, flush=True)
        os._exit(7)


def test_a_disk_that_fills_up_while_saving(tmp_path, fresh):
    """In a process of its own: Orbax writes in several threads, and all of them fail."""
    code = (
        "import sys, pathlib; from tests.training import test_checkpoint as t; "
        "t.save_twice_and_fail_the_second_time(pathlib.Path(sys.argv[1]))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "the checkpoint of step 2 could not be saved" in done.stdout
    assert "Older checkpoints are as they were. Make room" in done.stdout
    state, step, broken = restore(tmp_path, fresh)
    jax.tree.map(np.testing.assert_array_equal, state, at_step(fresh, 1))
    assert (step, broken) == (1, [])
    assert [p.name for p in (tmp_path / CHECKPOINTS).iterdir()] == ["1"]
    save(tmp_path, fresh, {2: None})
    assert restore(tmp_path, fresh)[1] == 2


def test_all_broken_is_an_error_that_lists_them(tmp_path, fresh):
    save(tmp_path, fresh, {1: None, 2: None})
    for step in ("1", "2"):
        truncate(tmp_path / CHECKPOINTS / step)
    with pytest.raises(InputError, match=r"none of the checkpoints(.|\n)*step 2: (.|\n)*step 1: "):
        restore(tmp_path, fresh)
    assert sorted(p.name for p in (tmp_path / CHECKPOINTS).iterdir()) == ["1", "2"]


def claim(directory: Path, config: Config, *, resume: bool = False) -> list[str]:
    with run_directory.claim(directory, config, resume=resume) as changes:
        return changes


def test_a_directory_belongs_to_one_configuration(tmp_path):
    directory = tmp_path / "run"
    assert claim(directory, CONFIGURATION) == []
    assert claim(directory, CONFIGURATION) == []
    longer = dataclasses.replace(CONFIGURATION, steps=9)
    assert claim(directory, longer) == ["steps: 3000 -> 9"]
    other = dataclasses.replace(CONFIGURATION, model=ModelConfig(width=8))
    with pytest.raises(InputError, match=r"model.width: 4 there, 8 now(.|\n)*--output"):
        claim(directory, other)
    assert (directory / CONFIG).read_text() == to_json(longer)


def test_directories_that_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        claim(tmp_path / "file", CONFIGURATION)
    with pytest.raises(InputError, match="not empty and is not a training run"):
        claim(tmp_path, CONFIGURATION)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match="nothing to resume"):
        claim(tmp_path / "new", CONFIGURATION, resume=True)
    assert not (tmp_path / "new").exists()


def test_two_runs_cannot_share_a_directory(tmp_path):
    with (
        run_directory.claim(tmp_path / "run", CONFIGURATION, resume=False),
        pytest.raises(InputError, match="another run is going on"),
    ):
        claim(tmp_path / "run", CONFIGURATION)
