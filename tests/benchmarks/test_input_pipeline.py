"""The benchmark of the input pipeline runs, and its ratios are those of its rates."""

import json
import time

import pytest

from benchmarks import input_pipeline, timing


@pytest.mark.slow
def test_it_writes_a_table_and_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    input_pipeline.main(["--presets", "smoke", "gray", "--workers", "0", "--seconds", "0"])
    printed = capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("input_pipeline-")
    report = json.loads(path.read_text())
    assert report["device"] in printed
    rows = {(row["preset"], row["source"]): row for row in report["rows"]}
    assert rows.keys() == {(p, s) for p in ("smoke", "gray") for s in ("PNG", "JPEG", "cache")}
    for (preset, _), row in rows.items():
        made = row["images_per_second_by_workers"]["0"]
        assert made > 0
        assert row["steps_per_second_allowed"] == pytest.approx(made / row["batch"])
        if preset == "smoke":
            assert row["ratio"] == pytest.approx(made / row["training_images_per_second"])
            assert f"{row['ratio']:.1f}" in printed
        else:
            assert row["ratio"] is None, "gray is for accelerators"
            assert (row["batch"], row["crop"], row["channels"]) == (32, 128, 1)


def test_a_rate_is_images_over_time():
    def batches():
        while True:
            time.sleep(0.01)
            yield

    assert 100 < input_pipeline.rate(batches(), 8, 0.1) <= 800


def test_workers_go_up_to_the_processors(monkeypatch):
    for cores, counts in (
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (6, [0, 1, 2, 4]),
        (16, [0, 1, 2, 4, 8, 16]),
    ):
        monkeypatch.setattr(input_pipeline.os, "sched_getaffinity", lambda _, n=cores: range(n))
        assert input_pipeline.worker_counts() == counts
