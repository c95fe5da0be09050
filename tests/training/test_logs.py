"""What a run writes down."""

import json
import math

import pytest
from PIL import Image

from sa_flax.training import logs


def metrics(loss: float | None, skipped: float = 0) -> dict[str, float]:
    means = {} if loss is None else {"loss": loss, "psnr": 20.0, "grad_norm": 1.0}
    last = {"learning_rate": 5e-4, "skipped": skipped, "seconds_waiting_for_data": 0.0}
    return means | last


def test_a_curve_without_validation_and_lines_of_trouble(tmp_path, capsys):
    log = logs.RunLog(tmp_path, steps=10)
    log.metrics(2, metrics(0.5), images_per_step=8)
    log.metrics(4, metrics(None, skipped=2), images_per_step=8)
    log.metrics(6, metrics(0.4) | {"seconds_waiting_for_data": 1e9}, images_per_step=8)
    log.close()
    printed = capsys.readouterr().out.splitlines()
    assert "loss 0.5000  PSNR 20.00 dB  rate 5.0e-04  " in printed[0]
    assert "skipped" not in printed[0]
    assert "waiting" not in printed[0]
    assert "(2 updates skipped: not finite)" in printed[1]
    assert "loss" not in printed[1]
    assert "(waiting for data 100%)" in printed[2]
    entries = logs.read_metrics(tmp_path)
    assert log.summary().startswith("0:00 of training, ")
    assert [e["train/share_waiting_for_data"] for e in entries] == [0, 0, 1]
    assert [e["train/learning_rate"] for e in entries] == [5e-4] * 3
    with Image.open(logs.save_learning_curve(tmp_path)) as curve:
        assert curve.size == (1050, 450)


def test_the_legend_covers_no_curve():
    entries = [
        {
            "step": step,
            "train/loss": 0.1,
            "validation/sigma 15": 30.0 + step,
            "validation/own": 20.0,
        }
        for step in (1, 2)
    ]
    figure = logs.draw_learning_curve(entries)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["own", "sigma 15"]
    for axes in figure.axes:
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize(("losses", "scale"), [((0.1, None, 0.01), "log"), ((1, -7), "linear")])
def test_losses_below_zero_are_drawn(losses, scale):
    entries = [{"step": step, "train/loss": loss} for step, loss in enumerate(losses)]
    assert logs.draw_learning_curve(entries).axes[0].get_yscale() == scale


def test_entries_after_the_last_checkpoint_are_dropped(tmp_path):
    log = logs.RunLog(tmp_path, steps=10)
    for step in (2, 4):
        log.metrics(step, metrics(0.5), images_per_step=8)
    log.close()
    logs.RunLog(tmp_path, steps=10, start=2).close()
    assert [entry["step"] for entry in logs.read_metrics(tmp_path)] == [2]


@pytest.mark.parametrize("line", [b"{}", b"[]", b"5", b'{"step": "x"}', b"\xff\xfe", b'{"step": 1'])
def test_lines_that_are_no_entries_end_the_log(tmp_path, line):
    whole = b'{"step": 1, "train/loss": 0.5}\n'
    (tmp_path / logs.METRICS).write_bytes(whole + line + b"\n" + whole)
    assert [entry["step"] for entry in logs.read_metrics(tmp_path)] == [1]
    logs.save_learning_curve(tmp_path)


def test_figures_that_are_not_finite_are_valid_json_and_drawn_around(tmp_path):
    log = logs.RunLog(tmp_path, steps=10)
    log.metrics(2, metrics(math.nan), images_per_step=8)
    log.validation(2, {"sigma 0": math.inf, "sigma 25": 30.0})
    log.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / logs.METRICS).read_text()
    entries = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert entries[0]["train/loss"] is None
    assert entries[1]["validation/sigma 0"] is None
    assert entries[1]["not_finite"] == {"validation/sigma 0": "inf"}
    logs.save_learning_curve(tmp_path)


def test_other_processes_write_nothing(tmp_path, capsys):
    log = logs.NoLog()
    log.step()
    log.metrics(2, metrics(0.5), images_per_step=8)
    log.validation(2, {"sigma 25": 30.0})
    log.close()
    assert capsys.readouterr().out == ""
