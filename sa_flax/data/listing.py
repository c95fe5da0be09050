"""What lies in a folder: the pictures, and what was left out and why."""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
_NAMED = 3  # how many names a line about many files gives


class Listing(NamedTuple):
    """The content of a folder.

    Attributes:
      pictures: files with a picture's suffix, sorted.
      left_out: a line for each folder that can't be listed, and for each other suffix. Hidden files
        and folders are left out without a word: systems make them for themselves.
    """

    pictures: list[Path]
    left_out: tuple[str, ...]


def list_pictures(folder: str | os.PathLike[str]) -> Listing:
    """Everything in `folder` and below.

    Links to folders are followed, but no folder is listed twice: a link may lead in a circle.
    """
    found: list[Path] = []
    left_out: list[str] = []
    others: dict[str, list[str]] = defaultdict(list)
    listed: set[str] = set()

    def not_listed(error: OSError) -> None:
        left_out.append(f"{error.filename}: the folder can't be listed ({error.strerror})")

    for directory, subdirectories, files in os.walk(folder, followlinks=True, onerror=not_listed):
        place = os.path.realpath(directory)
        if place in listed:
            subdirectories.clear()
            continue
        listed.add(place)
        subdirectories[:] = sorted(d for d in subdirectories if not d.startswith("."))
        for file in files:
            if file.startswith("."):
                continue
            path = Path(directory, file)
            if file.lower().endswith(SUFFIXES):
                found.append(path)
            else:
                others[path.suffix.lower()].append(os.path.relpath(path, folder))
    for suffix, names in sorted(others.items()):
        kind = f"ending in {suffix}" if suffix else "without an ending"
        count = f"{len(names)} file{'s' * (len(names) > 1)}"
        left_out.append(f"{count} {kind}, not read: {some(sorted(names))}")
    return Listing(sorted(found), tuple(map(as_text, left_out)))


def find_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures that `list_pictures` finds."""
    return list_pictures(folder).pictures


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
