"""Every Python example of the README runs as it stands."""

import re
import runpy
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"(<!-- runs: [^\n]*-->\n)?```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example(index, tmp_path, monkeypatch, run_directory):
    needs_run, code = EXAMPLES[index]
    if needs_run:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "quick").symlink_to(run_directory)
    script = tmp_path / "example.py"
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(script))
    result = names.get("y", names.get("clean"))
    assert result.ndim >= 3


def test_there_are_examples():
    assert len(EXAMPLES) >= 5
