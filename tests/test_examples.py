"""The examples and the porting notebook run, small, and do what they say."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import sa_flax
from sa_flax.models.saved import model_leaves

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("jax_defaults")


def _example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_examples_are_tested():
    tested = {"plug_and_play", "sure", "fine_tune", "ensemble", "own_attention"}
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == tested


def test_plug_and_play():
    lines = (ROOT / "examples" / "plug_and_play.py").read_text().splitlines()
    assert len(lines) < 40
    blurred, deblurred = _example("plug_and_play").main(size=96)
    assert deblurred > blurred + 1  # 2.9 dB at 192 pixels


def test_sure():
    for level, decibels in _example("sure").main(size=96).items():
        estimated, true = (10 ** (-x / 10) for x in decibels)
        # The standard deviation of the mean square of 27,648 normal numbers of this level.
        assert abs(estimated - true) < 4 * (level / 255) ** 2 * np.sqrt(2 / (3 * 96 * 96))


def test_fine_tuning_with_a_frozen_encoder():
    before, after, model = _example("fine_tune").main(steps=2, count=2, size=32)
    assert np.isfinite([before, after]).all()
    original = model_leaves(sa_flax.from_pretrained("color")[0])
    moved = {
        path
        for path, leaf in model_leaves(model).items()
        if np.any(np.asarray(leaf[...]) != np.asarray(original[path][...]))
    }
    assert not [path for path in moved if path.startswith(("head.", "encoder.", "down."))]
    assert moved >= {"tail.kernel", "up.0.conv.kernel", "decoder.0.layers.0.conv1.kernel"}


def test_an_ensemble():
    found = _example("ensemble").main(members=2, steps=1, size=16)
    assert found.keys() == {"noisy", "members", "their mean", "correlation"}
    # The mean of different networks is better than they are on average: squares are convex.
    assert found["their mean"] > found["members"]


def test_an_attention_of_ones_own():
    noisy, denoised, shapes = _example("own_attention").main(steps=1, size=16)
    assert np.isfinite([noisy, denoised]).all()
    assert shapes["bottom.0: gate"] == (8, 1, 1, 32)
    assert shapes["encoder.1.0: spatial"] == (8, 8, 8, 1)


@pytest.mark.slow
def test_the_porting_notebook(tmp_path, monkeypatch):
    """Its cells as they stand, with fewer steps and pictures, in a folder of their own."""
    pytest.importorskip("torch")
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "notebooks" / "port_weights.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    whole = "\n".join(cells)
    names: dict = {"__name__": "__main__"}
    for text, smaller in (
        ("STEPS = 150", "STEPS = 2"),
        ("count=24", "count=6"),
        ("batch(rng, 60)", "batch(rng, 12)"),
        ('glob("*.jpg"))[:6]', 'glob("*.jpg"))[:1]'),
        ("[:160, :160", "[:32, :32"),
        ("[20:212, 90:346", "[20:84, 90:154"),
    ):
        assert whole.count(text) == 1
        cells = [cell.replace(text, smaller) for cell in cells]
    for cell in cells:
        exec(compile(cell, "port_weights.ipynb", "exec"), names)
    assert names["difference"] < 1e-4
