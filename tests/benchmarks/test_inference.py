"""The benchmark of denoising a megapixel runs, on any network, and notes what it measured."""

import json

import pytest

from benchmarks import inference


def test_it_writes_a_table_and_a_report(run_directory, tmp_path, capsys):
    inference.main(
        [str(run_directory), *f"--height 40 --width 60 --output {tmp_path}".split()],
    )
    printed = capsys.readouterr().out
    (path,) = tmp_path.glob("inference-*-jax-*.json")
    results = json.loads(path.read_text())["results"]
    assert {"non-local means", f"{run_directory}, float32"} <= results.keys()
    for name, times in results.items():
        assert name in printed
        assert times["rounds"] == 5
        each = times["processor_s_per_megapixel"]
        assert each == pytest.approx(times["processor_ms"] / 1e3 / (40 * 60 / 1e6))
