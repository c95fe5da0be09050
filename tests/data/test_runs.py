"""A run and its data set: what it notes, what it says when it goes on, what it refuses."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa_flax.config import Config, DataConfig, ModelConfig, to_json
from sa_flax.data.builders import open_splits
from sa_flax.data.manifest import Manifest
from sa_flax.errors import InputError
from sa_flax.noise import Gaussian
from sa_flax.training import run, run_data
from sa_flax.training.run_directory import claim
from tests.trainings import TINY, TRAIN
from tests.trainings import run as run_command


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_what_a_run_notes(tmp_path):
    for i in range(12):
        save(tmp_path / "in" / f"{i}.png", i)
    folder, output = str(tmp_path / "in"), tmp_path / "run"
    output.mkdir()
    first = open_splits(folder)
    assert run_data.earlier_data(output) is None
    assert run_data.data_changes(output, first.manifest) == []
    run_data.note_data(output, first.manifest)
    noted = run_data.earlier_data(output)
    assert noted is not None
    assert noted.splits == first.manifest.splits
    (tmp_path / "in").rename(tmp_path / "moved")
    assert run_data.data_changes(output, open_splits(str(tmp_path / "moved")).manifest) == []
    (tmp_path / "moved").rename(tmp_path / "in")
    # Half of what is held out is gone for one start.
    (tested, *_) = first.manifest.splits["test"]
    (tmp_path / "in" / tested).rename(tmp_path / tested)
    save(tmp_path / "in" / "new.png", 100)
    second = open_splits(folder, earlier=noted)
    assert f"{tested}: no longer there (tested)" in run_data.data_changes(output, second.manifest)
    run_data.note_data(output, second.manifest)
    (tmp_path / tested).rename(tmp_path / "in" / tested)
    third = open_splits(folder, earlier=run_data.earlier_data(output))
    assert tested in third.manifest.splits["test"]
    # A copy of what is held out is left out at every start.
    (tmp_path / "in" / "copy.png").write_bytes((tmp_path / "in" / tested).read_bytes())
    run_data.note_data(output, third.manifest)
    for _ in range(2):
        fourth = open_splits(folder, earlier=run_data.earlier_data(output))
        assert fourth.manifest.splits == third.manifest.splits
        assert f"copy.png: a copy of {tested}, which is held out" in fourth.skipped
        run_data.note_data(output, fourth.manifest)
    (output / run_data.DATA).write_bytes(b"\xff{")
    with pytest.raises(InputError, match=r"data.json: is not .* restore it from a backup"):
        run_data.earlier_data(output)


def test_pictures_that_runs_made_are_no_data(tmp_path, monkeypatch):
    for i in range(4):
        save(tmp_path / f"{i}.png", i)
    alone = open_splits(str(tmp_path)).manifest
    with claim(tmp_path / "runs" / "quick", Config(), resume=False):
        save(tmp_path / "runs" / "quick" / "samples" / "test" / "picture0.png", 9)
    found = open_splits(str(tmp_path))
    assert found.manifest.splits == alone.splits
    assert found.skipped == ("runs/quick: the directory of a training run",)


def test_a_run_of_an_earlier_release_keeps_its_source(tmp_path):
    (tmp_path / "config.json").write_text(to_json(Config(data=DataConfig(source="/old"))))
    assert run_data.data_changes(tmp_path, Manifest("/old")) == []
    with pytest.raises(InputError, match=r"data.source: /old there, /new now"):
        run_data.data_changes(tmp_path, Manifest("/new"))


def test_another_place_of_the_pictures_is_said(tmp_path):
    for source, said in (("in", []), ("moved", ["data.source: in -> moved"])):
        config = Config(data=DataConfig(source=source))
        with claim(tmp_path / "run", config, resume=False) as changes:
            assert changes == said


def test_noise_is_of_no_use_to_pairs(tmp_path):
    for i in range(6):
        for side in ("noisy", "clean"):
            save(tmp_path / "in" / side / f"{i}.png", i)
    config = Config(data=DataConfig(source=str(tmp_path / "in"), crop=32))
    assert run_data.open_data(config, tmp_path / "run").pairs
    for changed, message in (
        ({"noise": Gaussian(sigma=25.0)}, "--noise.* would change nothing: the pairs in"),
        ({"model": ModelConfig(noise_level=True)}, "pairs don't tell it"),
        (
            {"data": dataclasses.replace(config.data, scales=(0.5, 1.0))},
            "--data.scales would change the noise of the pairs in",
        ),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            run_data.open_data(dataclasses.replace(config, **changed), tmp_path / "run")


def test_evaluation_crops():
    clean = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
    examples = [{"clean": clean, "noisy": clean + 1}] * 5
    crops = run.evaluation_crops(examples, largest=4, most=3)
    assert len(crops) == 3
    np.testing.assert_array_equal(crops[0]["clean"], clean[1:5, 2:6])
    np.testing.assert_array_equal(crops[0]["noisy"], clean[1:5, 2:6] + 1)


def test_going_on_with_other_pictures(training_environment, tmp_path):
    """By the command: pairs whose folder has got one more pair, and other pairs."""
    for i in range(8):
        save(tmp_path / "in" / "noisy" / f"{i}.png", i)
        save(tmp_path / "in" / "clean" / f"{i}.png", 50 + i)
    save(tmp_path / "in" / "noisy" / "alone.png", 99)
    command = [*TRAIN, *TINY, "--log-every", "1", "--data.source"]
    done = run_command([*command, "in", "--steps", "2"], training_environment, tmp_path)
    assert "8 pairs of noisy (noisy) and clean (clean) pictures" in done.stdout
    assert "left out: noisy/alone.png: no clean picture belongs to it" in done.stdout
    noted = json.loads((tmp_path / "runs" / "smoke" / "data.json").read_text())
    assert sum(map(len, noted["splits"].values())) == 8

    save(tmp_path / "in" / "noisy" / "new.png", 200)
    save(tmp_path / "in" / "clean" / "new.png", 201)
    done = run_command([*command, "in", "--steps", "3"], training_environment, tmp_path)
    assert "going on at step 2" in done.stdout
    assert "data changed since: new: new (" in done.stdout
    save(tmp_path / "other" / "0.png", 300)
    save(tmp_path / "other" / "1.png", 301)
    save(tmp_path / "other" / "2.png", 302)
    done = run_command([*command, "other", "--steps", "4"], training_environment, tmp_path, code=2)
    assert "this run trains on in; other holds other pictures" in done.stderr
    config = json.loads((tmp_path / "runs" / "smoke" / "config.json").read_text())
    assert config["data"]["source"] == "in", "nothing was noted of what was refused"
