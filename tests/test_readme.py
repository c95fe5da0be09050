"""README and documentation: their Python runs, and the commands, files and names in them exist."""

import importlib
import importlib.util
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

import sa_flax
from sa_flax.training.command import parse_command

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs/api/index.md"]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
EXAMPLES = [
    (name, *found)
    for name, text in TEXTS.items()
    for found in re.findall(r"(<!-- runs: [^\n]*-->\n)?```python\n(.*?)```", text, re.DOTALL)
]
COMMANDS = [
    (name, line.partition("  #")[0].strip())
    for name, text in TEXTS.items()
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def commands(start: str) -> list[str]:
    """The words after `start` of each command on a page that has it."""
    found = (line.partition(start)[2] for _, line in COMMANDS if start in line)
    return sorted(set(found))


@pytest.mark.usefixtures("jax_defaults")  # as users run it
@pytest.mark.parametrize("index", range(len(EXAMPLES)), ids=lambda i: EXAMPLES[i][0])
def test_example(index, tmp_path, monkeypatch, run_directory):
    _, needs_run, code = EXAMPLES[index]
    if needs_run:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "quick").symlink_to(run_directory)
    script = tmp_path / "example.py"
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(script))
    result = names.get("y", names.get("clean"))
    if result is not None:
        assert result.ndim >= 3
    else:
        assert "denoiser" in names


def test_there_are_examples():
    assert len(EXAMPLES) >= 9
    assert any(name == "README.md" for name, *_ in EXAMPLES)
    assert len(commands("train.py")) >= 10


@pytest.mark.parametrize("words", commands("train.py"))
def test_train_takes_what_the_pages_give_it(words):
    words = words.partition(" #")[0]
    # The end of a command in quotes, for another program to run.
    arguments = shlex.split(words.rstrip("'") if words.count("'") % 2 else words)
    if "--help" in arguments:
        with pytest.raises(SystemExit) as left:
            parse_command(arguments)
        assert left.value.code == 0
    else:
        parse_command(arguments)


@pytest.mark.parametrize("words", commands("sa-flax "))
def test_the_command_has_the_options_that_the_pages_give_it(words):
    from sa_flax.cli.commands import COMMANDS as KNOWN

    name, *arguments = shlex.split(words.partition(" #")[0])
    parser = importlib.import_module(KNOWN[name][0]).parser()
    parser.parse(arguments)


def test_modules_and_files_that_are_named_exist():
    for name, text in TEXTS.items():
        for module in re.findall(r"python -m ((?:benchmarks|sa_flax)[\w.]*)", text):
            assert importlib.util.find_spec(module.rstrip(".")), f"{name}: {module}"
        for path in re.findall(r"`((?:sa_flax|tests|notebooks|benchmarks|docs)/[\w./]+)`", text):
            assert (ROOT / path).exists(), f"{name}: {path}"
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
            page = (ROOT / name).parent / link
            assert page.exists() or "_generated" in link, f"{name}: {link}"


def test_names_that_the_pages_refer_to_exist():
    text = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    names = set(re.findall(r"\{py:\w+\}`[^`]*?~?(sa_flax[\w.]+)>?`", text))
    assert len(names) > 20
    for dotted in names:
        found = sa_flax
        for part in dotted.split(".")[1:]:
            if not hasattr(found, part):
                found = importlib.import_module(f"{found.__name__}.{part}")
            else:
                found = getattr(found, part)


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    described = set(re.findall(r"automodule:: ([\w.]+)", text))
    assert {
        f"sa_flax.{room}" for room in ("functional", "modules", "models", "noise", "porting")
    } <= described
    for module in described:
        assert importlib.util.find_spec(module), module
    for name, module in sa_flax._EXPORTS.items():
        room = module.rpartition(".")[0]
        assert module in described or room in described, f"{name} of {module} is on no page"


def test_extras_that_pages_name_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name, text in TEXTS.items():
        for extra in re.findall(r"\[([a-z]\w*)\]'", text):
            assert extra in extras, f"{name}: {extra}"
