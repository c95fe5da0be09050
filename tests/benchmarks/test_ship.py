"""The figures in the cards of shipped networks."""

import json

import pytest

import sa_flax
from benchmarks import ship


@pytest.mark.parametrize("name", sa_flax.list_pretrained())
def test_a_card_has_the_figures_that_were_measured(name):
    assert ship._figures(name) in (ship.WEIGHTS / name / "README.md").read_text()


def test_what_self_ensemble_brings_is_a_column_where_it_was_measured(tmp_path, monkeypatch):
    psnr = {"input": 20.1, "a": 29.0, "a, self-ensemble": 29.126, "b": 28.0}
    quality = {"one: sigma 25": {"psnr": psnr}, "two: clean": {"psnr": {"input": 100, "a": 60}}}
    monkeypatch.setattr(ship, "QUALITY", tmp_path / "quality.json")
    (tmp_path / "quality.json").write_text(json.dumps(quality))
    lines = ship._figures("a").splitlines()
    assert lines[0] == "| pictures: noise | input | output | by `--self-ensemble` |"
    assert lines[2:] == [
        "| one: sigma 25 | 20.10 | 29.00 | 29.13 |",
        "| two: clean | 100.00 | 60.00 |  |",
    ]
    assert ship._figures("b").splitlines()[0] == "| pictures: noise | input | output |"
