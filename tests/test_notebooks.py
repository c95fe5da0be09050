"""The notebooks run, at small settings, and carry the pictures they were stored with."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
# The other one needs PyTorch and weights that don't come with the project.
NAMES = ["attention_as_non_local_means", "denoise_your_picture", "shuffle_gates", "where_to_attend"]


def cells(name: str) -> list[dict]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]


@pytest.mark.usefixtures("jax_defaults")
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SMALL", "1")
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    plt.switch_backend("Agg")
    names: dict = {}
    for cell in cells(name):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), names)
    plt.close("all")
    assert len(shown) >= 2
    if name == "where_to_attend":  # which trains nothing
        outputs = [output for cell in cells(name) for output in cell.get("outputs", [])]
        stored = "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")
        assert capsys.readouterr().out == stored, "the results have changed: execute it anew"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_has_pictures_and_no_error_and_is_small(name):
    outputs = [output for cell in cells(name) for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert sum(kind.startswith("image/") for kind in kinds) >= 2
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 600_000
