"""What the command answers before anything is computed: help, versions, wrong words."""

import subprocess
import sys

import pytest

import sa_flax as package
from sa_flax.cli import commands, main
from sa_flax.cli.denoise import FORMATS
from sa_flax.pictures import SUFFIXES

HEAVY = {"jax", "flax", "numpy", "PIL", "tensorflow_datasets", "skimage", "matplotlib", "tyro"}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["denois"],
        *([name, "--help"] for name in commands.COMMANDS),
        ["denoise", "a.png", "--sigma", "abc", "--output", "b.png"],
        ["denoise", "a.png", "--outptu", "b"],
    ],
)
def test_answers_that_import_nothing_heavy(words):
    script = (
        "import sys; from sa_flax.cli import main; code = main(sys.argv[1:]); "
        f"print(sorted({HEAVY!r} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.returncode == (0 if words[-1] in ("--help", "--version") else 2)


def test_the_version_is_the_packages(sa_flax):
    assert sa_flax("--version") == (0, f"sa-flax {package.__version__}\n", "")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_has_defaults_and_two_examples_and_no_names_of_types(sa_flax, name):
    code, out, err = sa_flax(name, "--help")
    assert (code, err) == (0, "")
    for unwanted in ("(default: )", "{None}", " STR", " INT", " FLOAT", "None"):
        assert unwanted not in out
    examples = out.split("examples:\n")[1].splitlines()
    assert len([line for line in examples if line.startswith("  sa-flax ")]) >= 2
    assert "default" in out or name == "port"
    assert max(map(len, out.splitlines())) <= 100


def test_the_help_names_the_formats_that_are_read():
    for suffix in (".png", ".jpeg", ".tiff", ".webp", ".avif", ".gif", ".bmp", ".pgm", ".heic"):
        assert suffix in SUFFIXES
        assert suffix[1:].upper() in FORMATS.upper()


def test_no_command_shows_the_help_as_an_error(capsys):
    assert main([]) == 2
    assert "usage: sa-flax COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "meant"), [("denois", "denoise"), ("evalute", "evaluate")])
def test_a_misspelt_command(sa_flax, given, meant):
    code, _, err = sa_flax(given, "x")
    assert code == 2
    assert f"Did you mean {meant!r}?" in err


def test_a_picture_in_the_place_of_the_command(sa_flax, folder):
    code, _, err = sa_flax(folder / "a.png")
    assert code == 2
    assert f"sa-flax denoise {folder / 'a.png'} --output" in err


def test_options_may_stand_anywhere(sa_flax, folder, tmp_path):
    code, out, _ = sa_flax(
        *("add-noise", folder / "a.png", "--sigma", 5, folder / "sub/b.jpg"),
        *("--output", tmp_path / "out"),
    )
    assert code == 0
    assert "added noise to 2 of 2" in out
