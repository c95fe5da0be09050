"""What lies in a folder: the pictures, and what was left out and why."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
_NAMED = 3  # how many names a line about many files gives


class LeftOut(NamedTuple):
    """A file or folder that was left out, and why."""

    path: Path
    reason: str


class Survey(NamedTuple):
    """What a folder holds: pictures, and what was left out but for hidden files; both sorted."""

    pictures: list[Path]
    left_out: list[LeftOut]


def survey(folder: str | os.PathLike[str]) -> Survey:
    """Looks for pictures in `folder` and below, by their names; hidden ones are left out.

    Left out with a reason are folders that can't be listed, and files with another suffix. Links to
    folders are followed, but no folder is listed twice: a link may lead in a circle.
    """
    pictures: list[Path] = []
    left_out: list[LeftOut] = []
    listed: set[str] = set()

    def not_listed(error: OSError) -> None:
        left_out.append(LeftOut(Path(error.filename), f"can't be listed ({error.strerror})"))

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
                pictures.append(path)
            else:
                kind = path.suffix.lower()
                is_none = f"{kind} is no suffix of a picture" if kind else "has no suffix"
                left_out.append(LeftOut(path, is_none))
    return Survey(sorted(pictures), sorted(left_out))


def find_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures in `folder` and below, sorted; `survey` says what was left out, too."""
    return survey(folder).pictures


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
