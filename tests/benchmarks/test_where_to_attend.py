"""The study of where attention sits: its grid, its budget, its interruptions and its arithmetic."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.where_to_attend import __main__ as command
from benchmarks.where_to_attend import cell as cells_
from benchmarks.where_to_attend import grid, pictures, report
from benchmarks.where_to_attend.settings import Settings, settle
from sa_flax.errors import InputError

SIZE = {"width": 8, "levels": 2}
TINY = Settings(**SIZE, steps=4, crop=16, batch=2, largest=48, most=1)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Where the bundled photographs are prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def by_name() -> dict[str, grid.Cell]:
    return {cell.name: cell for cells in grid.grids(2).values() for cell in cells}


# The networks.


@pytest.mark.parametrize("name", list(by_name()))
def test_every_cell_is_a_network_with_attention_where_it_says(name):
    cell = by_name()[name]
    model = nnx.eval_shape(lambda: grid.build(cell, **SIZE, seed=0))
    has = {
        "encoder": bool(nnx.state(model.encoder[0].layers[0].attention))
        if isinstance(model.encoder[0].layers[0].attention, nnx.Module)
        else False,
        "bottom": isinstance(model.bottom.layers[0].attention, nnx.Module),
        "decoder": isinstance(model.decoder[0].layers[0].attention, nnx.Module),
    }
    where = name.partition("-")[2]
    expected = {
        "": set(),
        "encoder": {"encoder"},
        "decoder": {"decoder"},
        "both": {"encoder", "bottom", "decoder"},
        "bottom": {"bottom"},
        "coarse": {"encoder", "bottom", "decoder"},  # of two levels, both are the coarsest
        "open": {"decoder"},
        "window": {"decoder"},
    }[where]
    assert {place for place, there in has.items() if there} == expected


def test_skip_gates_begin_as_the_plain_network_and_then_count():
    cell = by_name()["skip"]
    gated, plain = (grid.build(c, **SIZE, seed=3) for c in (cell, grid.Cell("none")))
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
    np.testing.assert_array_equal(gated(x), plain(x))
    gated.skip_gates[0].set_value(jnp.zeros(()))
    assert float(jnp.abs(gated.features(x)["decoder.0.0"] - plain.features(x)["decoder.0.0"]).max())
    more = grid.parameters(cell, **SIZE) - grid.parameters(grid.Cell("none"), **SIZE)
    assert more == SIZE["levels"] - 1


def test_open_gates_begin_at_one():
    layer = grid.OpenShuffleAttention(8, groups=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    unshuffled = jnp.sort(layer(x), axis=-1)
    np.testing.assert_allclose(unshuffled, jnp.sort(x, axis=-1), rtol=1e-5)


def test_the_control_has_the_nearest_number_of_parameters():
    for name in ("shuffle-decoder", "dual-both"):
        cell = by_name()[name]
        wanted = grid.parameters(cell, **SIZE)
        chosen = grid.control(cell, **SIZE)
        missed = abs(grid.parameters(chosen, **SIZE) - wanted)
        width = chosen.width or SIZE["width"]
        for other_width in (width - 1, width + 1):
            other = grid.Cell("other", width=other_width)
            assert missed <= abs(grid.parameters(other, **SIZE) - wanted)
    some = [by_name()[name] for name in ("none", "skip", "dual-both", "dual-coarse")]
    cells, matched = grid.with_controls(some, **SIZE)
    assert matched["skip"] == "none", "it has one parameter more"
    assert set(matched.values()) <= {cell.name for cell in cells}
    assert len({cell.name for cell in cells}) == len(cells)


# The budget.


def test_the_budget_is_of_the_processor_and_dear_networks_get_fewer_steps():
    assert cells_.steps_of(100.0, Settings(minutes=2)) == 1200
    assert cells_.steps_of(120.0, Settings(minutes=2)) == 1000
    assert cells_.steps_of(120.0, Settings(minutes=2, steps=7)) == 7


def test_costs_that_are_measured_later_are_in_units_of_the_first(monkeypatch):
    later = {"none": 20.0, "skip": 30.0}
    monkeypatch.setattr(
        cells_, "costs", lambda cells, *_, **__: {c.name: later[c.name] for c in cells}
    )
    known = {"none": 10.0, "eca": 11.0}
    skip = grid.Cell("skip")
    together = cells_.add_costs(known, [grid.Cell("none"), skip], TINY, seconds=0)
    assert together == {"none": 10.0, "eca": 11.0, "skip": 15.0}
    assert cells_.add_costs(together, [skip], TINY, seconds=0) == together


# The pictures.


def test_what_repeats_itself_is_found():
    rng = np.random.default_rng(0)
    i, j = np.mgrid[:64, :64]
    wallpaper = 0.5 + 0.4 * np.sign(np.sin(i * np.pi / 5)) * np.sign(np.sin(j * np.pi / 5))
    assert pictures.repetition(wallpaper) > 0.6
    assert pictures.repetition(rng.uniform(size=(64, 64))) < 0.3
    # What is smooth, and one straight edge, which looks like itself all along.
    assert pictures.repetition((i + j) / 128) == 0
    assert pictures.repetition(np.where(i + 0.3 * j > 40, 0.9, 0.1)) < 0.2
    whole = rng.integers(0, 256, (64, 160, 3), np.uint8)
    whole[:, 64:128] = np.round(wallpaper * 2)[..., None] * 100 + 7
    score, crop = pictures.most_repetitive(whole, 64)
    assert score > 0.6
    assert np.isin(crop, np.unique(whole[:, 64:128])).mean() > 0.7


def test_training_noise_is_white_or_correlated_and_gray_stays_gray():
    clean = np.full((64, 16, 16, 3), 0.5, np.float32)
    clean[..., 0] = 0.4
    noise = pictures.WhiteOrCorrelated()
    noisy, none = jax.jit(noise)(jax.random.key(0), jnp.asarray(clean))
    assert none is None
    left = np.asarray(noisy) - clean
    together = [
        np.corrcoef(picture[..., 1].ravel(), picture[..., 2].ravel())[0, 1] for picture in left
    ]
    white = np.abs(together) < 0.3
    assert 0.3 < white.mean() < 0.8
    gray, _ = jax.jit(noise)(jax.random.key(0), jnp.full(clean.shape, 0.5))
    np.testing.assert_array_equal(gray, jnp.repeat(gray[..., :1], 3, -1))


# A whole study, as small as it gets.


def run(output, *more: str) -> int:
    words = "--grids main --cells shuffle-decoder --seeds 1 --steps 2 --width 8 --levels 2"
    sizes = f"--crop 16 --batch 2 --largest 48 --most 1 --timing 0 --output {output}"
    return command.main([*words.split(), *sizes.split(), *more])


@pytest.mark.slow
def test_a_study_from_its_first_step_to_its_plot(tmp_path, capsys):
    assert run(tmp_path) == 0
    printed = capsys.readouterr().out
    files = {path.stem for path in tmp_path.glob("cells/*.json")}
    assert files == {"none-1", "shuffle-decoder-1"}
    result = json.loads((tmp_path / "cells" / "shuffle-decoder-1.json").read_text())
    assert result["psnr"].keys() == {"photographs", "gray", "repeated"}
    assert result["psnr"]["gray"].keys() == {"sigma 15", "sigma 25", "sigma 50", "correlated 25"}
    assert result["psnr"]["gray"]["sigma 25"].keys() == {"noisy", "whole", "window", "both"}
    assert 19 < result["psnr"]["gray"]["sigma 25"]["noisy"][0] < 21.5
    measured = result["psnr"]["photographs"]["sigma 25"]
    # The mean of two results is at least as near as they are on average.
    assert measured["both"][0] >= min(measured["whole"][0], measured["window"][0])
    assert (result["steps"], result["control"]) == (2, "none")
    assert result["cpu_seconds"] > 0
    plain = json.loads((tmp_path / "cells" / "none-1.json").read_text())
    assert plain["psnr"]["gray"]["sigma 25"].keys() == {"noisy", "whole"}, "it pools nothing"
    assert plain["psnr"]["gray"]["sigma 25"]["noisy"] == result["psnr"]["gray"]["sigma 25"]["noisy"]
    for words in (
        "Equal processor time: gray",
        "Equal parameters",
        "| `shuffle-decoder` | window |",
    ):
        assert words in printed
    assert (tmp_path / "where_to_attend.png").stat().st_size > 5000
    assert not list(tmp_path.glob("work/*"))
    assert run(tmp_path, "--seeds", "1", "2", "--plan") == 0
    assert "2 trainings" in capsys.readouterr().out
    # Again: nothing is left to do, and the tables come from the files alone.
    assert run(tmp_path) == 0
    assert "0 trainings" in capsys.readouterr().out
    for path in [*tmp_path.glob("*.json"), tmp_path / "where_to_attend.png"]:
        path.unlink()
    assert command.main(["--report", "--output", str(tmp_path)]) == 0
    # Other settings can't be compared with these.
    settle(dataclasses.replace(TINY, steps=2), tmp_path)
    assert run(tmp_path, "--rate", "1e-3") == 2
    assert "--rate 0.002 then, 0.001 now" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    cell = by_name()["squeeze_excite-both"]
    step = cells_.compiled_step(cell, TINY, steps=4, seed=5)

    def compiled_once(*_, **__):
        return dataclasses.replace(step, state=jax.tree.map(jnp.copy, step.state))

    monkeypatch.setattr(cells_, "compiled_step", compiled_once)
    calls = iter([False, False, True])
    options = {"seed": 5, "steps": 4}
    whole = cells_.train(cell, TINY, **options, work=tmp_path / "a.npz", stopped=lambda: False)
    with pytest.raises(cells_.StoppedError):
        cells_.train(cell, TINY, **options, work=tmp_path / "b.npz", stopped=lambda: next(calls))
    rest = cells_.train(cell, TINY, **options, work=tmp_path / "b.npz", stopped=lambda: False)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(rest.model), nnx.state(whole.model))
    assert rest.curve == whole.curve
    with pytest.raises(cells_.StoppedError):
        cells_.measure(
            rest.model,
            {"set": [np.zeros((32, 32, 3), np.uint8)]},
            window=16,
            stopped=lambda: True,
        )


@pytest.mark.slow
def test_sigterm_keeps_the_training_at_hand(tmp_path):
    words = "--cells none --seeds 0 --steps 100000 --width 8 --levels 2 --crop 16 --batch 2"
    command_line = [sys.executable, "-m", "benchmarks.where_to_attend", *words.split()]
    process = subprocess.Popen(
        [*command_line, "--largest", "48", "--timing", "0", "--output", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    work = tmp_path / "work" / "none-0.npz"
    while not work.is_file():  # the first five hundred steps
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped in none, seed 0" in said
    with np.load(work) as kept:
        assert kept["leaf0"] >= 500
        assert kept["cpu_seconds"] > 0
    assert not list(tmp_path.glob("cells/*"))


def test_impossible_requests_are_refused(tmp_path, capsys):
    assert run(tmp_path, "--cells", "shuffle-midst") == 2
    assert "shuffle-midst: unknown" in capsys.readouterr().err
    assert command.main(["--report", "--output", str(tmp_path / "nothing")]) == 2
    with pytest.raises(InputError, match="no such folder"):
        pictures.held_out_sets(data=tmp_path / "nothing", source="photographs", largest=48, most=1)
    with pytest.raises(InputError, match="levels"):
        settle(Settings(levels=1), tmp_path / "other")


def test_a_result_that_two_methods_need_is_computed_once():
    calls = []
    method = cells_._once(lambda noisy, sigma: calls.append(1) or 2 * noisy)
    first, second = np.ones(3), np.ones(3)
    assert method(first, None) is method(first, None)
    method(second, None)
    assert len(calls) == 2


# The arithmetic.


def made_up(psnr: dict[tuple[str, int], list[float]]) -> report.Results:
    """Results with one set and one noise: PSNR of each picture, by cell and seed."""
    return {
        key: {
            "cell": key[0], "seed": key[1], "parameters": 10, "step_ms": 1.0, "steps": 5,
            "cpu_seconds": 60.0, "statistics": "whole",
            "control": "none" if key[0] != "none" else None,
            "psnr": {"set": {"sigma 25": {"whole": values}}},
        }
        for key, values in psnr.items()
    }  # fmt: skip


def test_differences_are_paired_by_seed_and_picture():
    results = made_up(
        {
            ("none", 0): [30.0, 20.0], ("none", 1): [31.0, 21.0], ("none", 2): [32.0, 22.0],
            ("sa", 0): [30.1, 20.1], ("sa", 1): [31.2, 21.2], ("sa", 2): [32.3, 22.3],
            ("sa", 3): [99.0, 99.0],
        }
    )  # fmt: skip
    found = report.differences(results, "sa", "none", "set", "sigma 25")
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3], atol=1e-9)
    mean, half = report.interval(found)
    # Student's t for two degrees of freedom is 4.3027; the standard error 0.1 / sqrt(3).
    assert mean == pytest.approx(0.2)
    assert half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    text = report.tables(results)
    assert "| `none` | 26.00 | 26.00 |" in text
    assert "| `sa` | +0.20 ± 0.25 | +0.20 ± 0.25 |" in text, "not bold: zero is within"
    (in_short,) = [
        line for line in text.splitlines() if line.startswith("| `sa` |") and "/" in line
    ]
    assert in_short.endswith("| +0.10 / +0.20 / +0.30 |")


def test_a_network_is_judged_by_the_statistics_it_was_trained_with():
    results = made_up({("none", 0): [30.0], ("shuffle-window", 0): [10.0]})
    windowed = results["shuffle-window", 0]
    windowed["statistics"] = "window"
    windowed["psnr"]["set"]["sigma 25"] |= {"window": [31.0], "both": [30.0]}
    found = report.differences(results, "shuffle-window", "none", "set", "sigma 25")
    np.testing.assert_allclose(found, [1.0])
    assert "| `shuffle-window` | window | +21.00 (one seed) |" in report.tables(results)


def test_one_seed_has_no_interval():
    mean, half = report.interval(np.array([0.2]))
    assert (mean, math.isnan(half)) == (0.2, True)
    results = made_up({("none", 0): [30.0], ("sa", 0): [30.5]})
    assert "+0.50 (one seed)" in report.tables(results)
