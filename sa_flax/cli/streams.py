"""One picture in and out: files, and standard input and output, which are called "-"."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax.cli.jobs import STREAM, UNNAMED, Job, check_target
from sa_flax.errors import InputError

if TYPE_CHECKING:
    from sa_flax.pictures import Picture

# How files of each kind begin, for pictures without a name.
_BEGINNINGS = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)
_DEEP = (".png", ".tif", ".tiff")
_WITH_ALPHA = (*_DEEP, ".webp")


def read(source: Path) -> tuple["Picture", str]:
    """The picture in a file or from standard input, and the suffix of its kind.

    Raises:
      InputError: naming the file, where it can't be read.
    """
    from sa_flax.pictures import read_picture

    if source != STREAM:
        return read_picture(source), source.suffix.lower()
    encoded = sys.stdin.buffer.read()
    if not encoded:
        raise InputError("-: nothing came through standard input.")
    suffix = next((s for start, s in _BEGINNINGS if encoded.startswith(start)), ".png")
    with tempfile.TemporaryDirectory(prefix="sa-flax-") as folder:
        file = Path(folder, f"stdin{suffix}")
        file.write_bytes(encoded)
        try:
            return read_picture(file), suffix
        except InputError as error:
            raise InputError(str(error).replace(str(file), "-")) from error


def target_of(job: Job, suffix: str) -> Path:
    """Where the result of a job goes, known once its picture is read."""
    return job.target.with_suffix(suffix) if job.target.name == UNNAMED else job.target


def check_writable(target: Path, suffix: str, picture: "Picture") -> None:
    """Raises InputError where `target` can't be written or can't hold such a picture.

    Called before the network runs, which takes much longer.
    """
    kind = suffix if target == STREAM else target.suffix.lower()
    if target != STREAM:
        check_target(target)
    pixels = picture.pixels
    lacks = []
    if pixels.dtype.itemsize == 2 and kind not in _DEEP:
        lacks.append("16 bits")
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4) and kind not in _WITH_ALPHA:
        lacks.append("transparency")
    if lacks:
        raise InputError(
            f"{target}: {kind} files can't hold {' and '.join(lacks)}, which the picture has. Give "
            "a name that ends in .png: --output NAME.png."
        )


def write(target: Path, suffix: str, picture: "Picture") -> None:
    """Writes a picture to a file or to standard output, there in the kind of `suffix`.

    Raises:
      InputError: where it can't be written.
    """
    from sa_flax.pictures import write_picture

    if target != STREAM:
        write_picture(target, picture)
        return
    with tempfile.TemporaryDirectory(prefix="sa-flax-") as folder:
        file = Path(folder, f"stdout{suffix}")
        write_picture(file, picture)
        sys.stdout.buffer.write(file.read_bytes())
        sys.stdout.buffer.flush()
