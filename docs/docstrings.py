"""The docstrings of this project as reStructuredText.

They are written to be read in an editor: plain text, `code` between single backticks, formulas as
indented blocks, and the sections Args, Returns, Raises and Attributes.
"""

import re
import textwrap
from collections.abc import Sequence

_SECTION = re.compile(r"(Args|Returns|Yields|Raises|Attributes)( \([^)]*\))?:")
_ITEM = re.compile(r"(?P<names>[\w*.]+(?:, [\w*.]+)*(?: \([^)]*\))?): (?P<text>.*)", re.DOTALL)


def to_rst(lines: Sequence[str]) -> list[str]:
    """A docstring's lines, without common indentation, as lines of reStructuredText."""
    made: list[str] = []
    body: list[str] = []
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        if not _SECTION.fullmatch(line):
            body.append(line)
            continue
        made += _text(body)
        body, block = [], []
        while rest and (not rest[0].strip() or rest[0].startswith(" ")):
            block.append(rest.pop(0))
        made += ["", f":{line[:-1]}:", *_indented(_section(line, block), 3), ""]
    return made + _text(body)


def _section(title: str, block: list[str]) -> list[str]:
    block = textwrap.dedent("\n".join(block)).split("\n")
    if title.startswith(("Returns", "Yields")):
        return _text(block)
    items: list[list[str]] = []
    for line in block:
        if line.strip() and not line.startswith(" "):
            items.append([line])
        elif items:
            items[-1].append(line)
    made: list[str] = []
    for first, *more in items:
        text = textwrap.dedent("\n".join(more)).rstrip()
        whole = f"{first}\n{text}" if text else first
        found = _ITEM.fullmatch(whole)
        if found is None:
            made += ["- " + "\n  ".join(_text(whole.split("\n"))).strip(), ""]
            continue
        names = ", ".join(f"**{_escaped(name)}**" for name in found["names"].split(", "))
        described = _text(found["text"].split("\n"))
        while described and not described[0]:
            described.pop(0)
        made += [f"- {names}: {described[0] if described else ''}"]
        made += [*_indented(described[1:], 2), ""]
    return made


def _text(lines: Sequence[str]) -> list[str]:
    """Paragraphs and lists; what is indented on its own is a formula or code, and stays so."""
    made: list[str] = []
    is_list = False
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        if not paragraph.strip():
            continue
        indentation = min(len(s) - len(s.lstrip()) for s in paragraph.split("\n") if s.strip())
        if indentation >= 4 or (indentation and not is_list):
            made += ["::", "", *_indented(textwrap.dedent(paragraph).split("\n"), 4), ""]
            continue
        is_list = paragraph.lstrip().startswith("- ") or (is_list and bool(indentation))
        made += [*_inline(paragraph).split("\n"), ""]
    return made


def _inline(paragraph: str) -> str:
    """`code` as ``code``; what means something else in reStructuredText is escaped elsewhere."""
    parts = re.split(r"(`[^`]+`)", paragraph)
    return "".join(f"`{p}`" if p.startswith("`") else _escaped(p) for p in parts)


def _escaped(text: str) -> str:
    text = re.sub(r"([\\*|])", r"\\\1", text)
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", text)


def _indented(lines: Sequence[str], by: int) -> list[str]:
    return [" " * by + line if line else line for line in lines]
