"""`sa-flax export`."""

import json
import shutil
import zipfile

import pytest


@pytest.mark.parametrize("ending", ["onnx", "stablehlo", "pth", "safetensors"])
def test_a_run_is_exported(sa_flax, run_directory, tmp_path, ending):
    if ending == "onnx":
        pytest.importorskip("onnxscript")
    path = tmp_path / f"net.{ending}"
    code, out, err = sa_flax("export", run_directory, "--output", path)
    assert (code, err) == (0, "")
    assert f"{run_directory} -> {path} (" in out
    assert "results differ by" in out
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


def test_a_window_is_not_in_the_file(sa_flax, run_directory, tmp_path):
    saved = tmp_path / "windowed"
    shutil.copytree(run_directory / "network", saved)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"window": [96, 64]}))
    asked = ("export", saved, "--output", tmp_path / "net.safetensors", "--no-check")
    code, _, err = sa_flax(*asked)
    assert code == 0
    assert "statistics over 96 x 64 pixels" in err
    assert "work on tiles of about that size" in err


def test_a_run_for_darktable(sa_flax, run_directory, tmp_path):
    pytest.importorskip("onnxscript")
    path = tmp_path / "denoise-mine.dtmodel"
    words = ["--license", "CC0-1.0", "--training-data", "my holidays", "--no-check"]
    code, out, err = sa_flax("export", run_directory, "--output", path, *words)
    assert code == 0
    assert f"{run_directory} -> {path} (" in out
    assert "nothing is noted for --training-data-license, which darktable shows" in err
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("denoise-mine/config.json"))
    assert config["model_card"]["license"] == "CC0-1.0"
    assert config["model_card"]["training_data"] == "my holidays"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export {run} --output {tmp}/net.pb", "ends in .onnx, .stablehlo, .dtmodel, .pth"),
        ("export {run} --output {tmp}/net", "ends in .onnx, .stablehlo, .dtmodel, .pth"),
        ("export {run} --output {tmp}/my.net.dtmodel", "letters, digits, - and _"),
        ("export {run} --output {tmp}/a.onnx --license CC0", "--license is for darktable"),
        ("export {run}", "say where the network shall go: --output FILE"),
        ("export --output a.onnx", "NAME is missing"),
        ("export gone --output a.onnx", "no network 'gone'"),
        ("export {run} --output {tmp}/is.onnx", "takes the name of a file"),
    ],
)
def test_requests_that_are_wrong(sa_flax, run_directory, tmp_path, words, said):
    (tmp_path / "is.onnx").mkdir()
    places = {"run": run_directory, "tmp": tmp_path}
    code, _, err = sa_flax(*(word.format(**places) for word in words.split()))
    assert code == 2
    assert said in err


def test_a_place_that_can_not_be_written(sa_flax, run_directory):
    code, _, err = sa_flax("export", run_directory, "--output", "/proc/none/a.stablehlo")
    assert code == 1
    assert "can't be written" in err
