"""The benchmark of the attentions runs, and what it counts can be counted by hand."""

import json

import pytest

from benchmarks import attentions


def test_it_writes_a_table_a_report_and_a_picture(tmp_path, capsys):
    attentions.main(
        f"--size 8 --width 8 --levels 2 --seconds 0 --kinds eca danet --output {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    (path,) = tmp_path.glob("attentions-*-jax-*.json")
    report = json.loads(path.read_text())
    assert report["device"] in printed
    rows = {(row["attention"], row["size"]): row for row in report["results"]}
    assert rows.keys() == {("eca", 8), ("eca", 4), ("danet", 8), ("danet", 4)}
    for (name, size), row in rows.items():
        assert f"{size}²x{row['features']}" in printed
        assert min(row["forward_ms"], row["forward_backward_ms"], row["bytes"]) > 0, name
        assert row["forward_processor_ms"] >= 0
        # XLA must have seen the whole matrix, not one turn of a loop.
        positions, features = size * size, row["features"]
        if name == "danet":
            depth = features // 8
            attended = 2 * positions * positions * (depth + features)
            assert attended < row["flops"] < 2 * attended + 20 * positions * features**2
    assert rows["eca", 8]["parameters"] == 3
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_sizes_are_those_of_the_network():
    assert attentions.map_sizes(128, 32, 4) == [(128, 32), (64, 64), (32, 128), (16, 256)]


def test_an_unknown_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        attentions.main(["--kinds", "shufle"])
    assert "invalid choice: 'shufle'" in capsys.readouterr().err
