"""`sa-flax report`: results beside their originals on one HTML page."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax.cli import work
from sa_flax.cli.options import Parser, add_words, place
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError
from sa_flax.files import write_whole

if TYPE_CHECKING:
    from sa_flax.inference.report import Entry

COMPUTES = False


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "report DIR --before DIR",
        description="Makes one HTML page of results beside their originals: dividers to move, "
        "noise estimates and figures. It holds its pictures, so it can be sent to anybody.",
        examples=(
            "report denoised --before Pictures --output report.html",
            "denoise Pictures --output denoised --report report.html",
        ),
    )
    options.add_argument("results", type=place, metavar="DIR", help="folder of denoised pictures")
    options.add_argument(
        "--before",
        type=place,
        metavar="DIR",
        help="folder of the originals, under the same names (default: the folder that holds the "
        "results, where they lie inside it)",
    )
    options.add_argument(
        "--clean", type=place, metavar="DIR", help="folder of the true pictures, for PSNR"
    )
    options.add_argument(
        "-o",
        "--output",
        type=place,
        metavar="FILE",
        help="the page to write (default: report.html in the folder of results)",
    )
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Writes the page that `options` ask for; returns the exit code."""
    from sa_flax.inference.report import Entry

    results = options.results
    if not os.path.isdir(results):
        raise InputError(f"no folder {results}. Give the folder that denoise wrote to.")
    before = options.before or _holding(results)
    for option, folder in (("--before", before), ("--clean", options.clean)):
        if folder is not None and not os.path.isdir(folder):
            raise InputError(f"no folder {folder}. {option} takes a folder of pictures.")
    output = options.output or results / "report.html"
    work.check_report_files({"--output": output})
    from sa_flax.pictures import find_pictures

    originals = _ByName(before)
    truths = None if options.clean is None else _ByName(options.clean)
    entries, alone = [], []
    for picture in find_pictures(results):
        name = picture.relative_to(results)
        original = originals.of(name)
        if original is None and picture.stem.endswith("_compare"):  # of denoise --compare
            continue
        if original is None:
            alone.append(f"{picture}: has no original of its name in {before}")
            continue
        clean = None if truths is None else truths.of(name)
        entries.append(Entry(str(name), original, picture, clean))
    if not entries:
        raise InputError(
            f"none of the pictures in {results} has an original of its name in {before}. Say where "
            "the originals are: --before DIR."
        )
    left_out = write_page(output, entries, f"{results.resolve().name}, before and after", stop)
    for line in [*alone, *left_out]:
        print(f"sa-flax: left out: {line}", file=sys.stderr)
    if not options.quiet:
        print(f"{len(entries) - len(left_out)} pictures -> {output}")
    return 1 if left_out else 0


def write_page(path: Path, entries: Iterable["Entry"], title: str, stop: Stop) -> list[str]:
    """Writes a page; returns a line for each picture that could not be shown.

    Raises:
      StorageError: where the file can't be written.
    """
    from sa_flax.inference.report import build

    page = build(entries, title=title)
    write_whole(path, page.html())
    return page.left_out


def _holding(results: Path) -> Path:
    """The folder of originals that the results lie in."""
    from sa_flax.pictures import SUFFIXES

    parent = results.resolve().parent
    if any(path.suffix.lower() in SUFFIXES for path in parent.iterdir()):
        return parent
    raise InputError("say where the originals are: --before DIR, the folder that was denoised.")


class _ByName:
    """The pictures in `folder` and below by place and name, whatever kind of file they are."""

    def __init__(self, folder: Path):
        from sa_flax.pictures import SUFFIXES, find_pictures

        names = sorted(
            (picture.relative_to(folder) for picture in find_pictures(folder)),
            key=lambda name: SUFFIXES.index(name.suffix.lower()),
        )
        self._folder = folder
        self._names = set(names)
        self._stems = {name.with_suffix(""): name for name in reversed(names)}

    def of(self, name: Path) -> Path | None:
        """The picture that has a result of that place and name, which for a.gif may be a.png, or
        a.gif.png."""
        stem = name.with_suffix("")
        found = next((n for n in (name, self._stems.get(stem)) if n in self._names), stem)
        return self._folder / found if (self._folder / found).is_file() else None
