"""A user's script is clean under `mypy --strict`, and its mistakes are found."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sa_flax

SCRIPT = Path(__file__).parent / "users_script.py"
PACKAGE = Path(sa_flax.__file__).parent
# What mypy has to say inside of the package is no business of users.
CONFIG = "[mypy]\nstrict = True\n[mypy-sa_flax.*]\nfollow_imports = silent\n"

MISTAKES = {
    "a text for a picture": ("psnr(restored, clean)", "psnr('restored', clean)", "arg-type"),
    "a name that is not there": ("sa_flax.from_pretrained(", "sa_flax.from_pretraned(", "attr-def"),
    "a place that is none": ('attend="both"', 'attend="everywhere"', "arg-type"),
    "a noise level as a text": ("clean, 25 / 255)", 'clean, "25")', "arg-type"),
}


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    folder = tmp_path_factory.mktemp("types")
    (folder / "mypy.ini").write_text(CONFIG)

    def mypy(text: str) -> str:
        (folder / "script.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "script.py"],
            cwd=folder,
            env={"MYPYPATH": str(PACKAGE.parent), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done.stdout + done.stderr

    return mypy


def test_a_users_script_is_clean(check):
    assert (PACKAGE / "py.typed").is_file()
    assert check(SCRIPT.read_text()).startswith("Success")


def test_mistakes_are_found(check):
    for right, wrong, code in MISTAKES.values():
        text = SCRIPT.read_text()
        assert text.count(right) == 1, right
        found = check(text.replace(right, wrong))
        assert f"[{code}" in found, found
        assert "Found 1 error" in found, found


def test_what_type_checkers_see_of_the_package_is_what_there_is():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imported = {a.name: n.module for n in block.body for a in n.names}
    expected = dict(sa_flax._EXPORTS) | dict.fromkeys(sa_flax._SUBMODULES, "sa_flax")
    assert imported == expected
    assert set(sa_flax.__all__) == {"__version__", *expected}
