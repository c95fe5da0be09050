"""One picture in and out: files, and standard input and output, which are called "-"."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax.cli.jobs import STREAM, UNNAMED, Job, check_target
from sa_flax.errors import InputError

if TYPE_CHECKING:
    from sa_flax.pictures import Picture


def read(source: Path) -> tuple[list["Picture"], str]:
    """The pages of a picture in a file or from standard input, and the suffix for its result.

    Raises:
      InputError: naming the file, where it can't be read.
    """
    from sa_flax.pictures import decode_pages, output_suffix, read_pages, start_of

    if source != STREAM:
        return read_pages(source), output_suffix(source, start_of(source))
    encoded = sys.stdin.buffer.read()
    if not encoded:
        raise InputError("-: nothing came through standard input.")
    try:
        return decode_pages(encoded), output_suffix(source, encoded)
    except InputError as error:
        raise InputError(f"-: {error}") from error


def target_of(job: Job, suffix: str) -> Path:
    """Where the result of a job goes, known once its picture is read."""
    return job.target.with_suffix(suffix) if job.target.name == UNNAMED else job.target


def check_writable(target: Path, suffix: str, pages: Sequence["Picture"]) -> None:
    """Raises InputError where `target` can't be written or can't hold such a picture.

    Called before the network runs, which takes much longer.
    """
    from sa_flax.pictures import what_cannot_be_written

    if target != STREAM:
        check_target(target)
    name = Path(f"result{suffix}") if target == STREAM else target
    for page in pages:
        if reason := what_cannot_be_written(name, page.pixels, pages=len(pages)):
            raise InputError(f"{target}: can't be written ({reason}).")


def write(
    target: Path, suffix: str, pages: Sequence["Picture"], *, quality: int | None = None
) -> None:
    """Writes a picture to a file or to standard output, there in the kind of `suffix`.

    Raises:
      InputError: where it can't be written.
    """
    from sa_flax.pictures import encode_pages, write_pages

    if target != STREAM:
        write_pages(target, pages, quality=quality)
        return
    sys.stdout.buffer.write(encode_pages(pages, suffix, quality=quality))
    sys.stdout.buffer.flush()
