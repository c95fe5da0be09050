"""How docstrings become pages of the documentation site, and that no page is lost on the way."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest

from sa_flax.models.saved import config_of
from sa_flax.training.command import parse_command

DOCS = Path(__file__).parent.parent / "docs"
to_rst = runpy.run_path(str(DOCS / "docstrings.py"))["to_rst"]


def converted(text: str) -> str:
    return "\n".join(to_rst(text.split("\n"))).strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Multiplies `x * y` by |z|.", "Multiplies ``x * y`` by \\|z\\|."),
        ("A code `that goes\nover lines`.", "A code ``that goes\nover lines``."),
        ("Names like out_ and *B.", "Names like out\\_ and \\*B."),
        ("With\n\n    y = a * b\n\nand", "With\n\n::\n\n    y = a * b\n\nand"),
        ("- one\n- two\n\n  more of it", "- one\n- two\n\n  more of it"),
    ],
)
def test_text(text, expected):
    assert converted(text) == expected


def test_sections():
    text = """Denoises.

Args:
  x: a map, (..., H, W, C),
    any dtype.
  low, high: levels.
  **options: more of `them`.

Returns:
  {"a": 1}: a dict.

Raises (from `next`):
  ValueError (an InputError): for
    anything else.

The paper."""
    lines = [line for line in converted(text).split("\n") if line.strip()]
    assert lines == [
        "Denoises.",
        ":Args:",
        "   - **x**: a map, (..., H, W, C),",
        "     any dtype.",
        "   - **low**, **high**: levels.",
        "   - **\\*\\*options**: more of ``them``.",
        ":Returns:",
        '   {"a": 1}: a dict.',
        ":Raises (from `next`):",
        "   - **ValueError (an InputError)**: for",
        "     anything else.",
        "The paper.",
    ]


def test_every_page_is_on_a_way_from_the_first():
    def linked(page: Path) -> set[Path]:
        trees = re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.DOTALL)
        lines = [line for tree in trees for line in tree.split("\n") if line and line[0] != ":"]
        return {page.parent / f"{line}.md" for line in lines if "_generated" not in line}

    found, new = set(), {DOCS / "index.md"}
    while new:
        found |= new
        new = {below for page in new for below in linked(page)} - found
    assert found == {*DOCS.glob("*.md"), *(DOCS / "api").glob("*.md")}


def test_the_command_to_fine_tune_names_the_networks_shape():
    """Of the network that it starts from, whatever that is now."""
    text = (DOCS / "research.md").read_text()
    command = re.search(r"^python train.py --init-from photo .*?(?=\n```)", text, re.M | re.S)
    assert command
    words = command[0].replace("\\\n", " ").split()[2:]
    model = dataclasses.asdict(parse_command(words).config.model)
    options = config_of("photo")["options"]
    assert {name: model[name] for name in options} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
