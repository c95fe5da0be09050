"""What lies in a folder, in words."""

import os
from collections.abc import Iterable
from pathlib import Path

from sa_flax.pictures import LeftOut

_OF_A_RUN = ("config.json", "starts.jsonl")  # in a training run's directory
_NAMED = 3  # how many names a line about many files gives


def in_words(left_out: Iterable[LeftOut], folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Lines on what a survey of `folder` left out: one for each reason, with the first names."""
    names: dict[str, list[str]] = {}
    for path, reason in left_out:
        names.setdefault(reason, []).append(as_text(os.path.relpath(path, folder)))
    return tuple(
        f"{found[0]}: {reason}"
        if len(found) == 1
        else f"{len(found)} files ({some(found)}): {reason}"
        for reason, found in names.items()
    )


def of_a_run(folder: Path) -> str:
    """Why a folder's pictures are no data: "" but for a training run's, which shows its own there,
    held-out ones among them."""
    made = all(os.path.isfile(folder / name) for name in _OF_A_RUN)
    return "the directory of a training run" if made else ""


def subfolders(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders in a folder, sorted; none where it can't be listed."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(path for name in names if os.path.isdir(path := Path(folder, name)))


def some(names: list[str], most: int = _NAMED) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def as_text(name: str) -> str:
    """A file's name as text that can be printed: bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
