"""Picture files in and out, keeping what a person would miss; and which of them a folder holds."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sa_flax.errors import InputError, StorageError
from sa_flax.files import write_whole
from sa_flax.pictures import limits
from sa_flax.pictures.companions import fitting
from sa_flax.pictures.decoding import decode, read_bytes
from sa_flax.pictures.formats import FORMATS, SUFFIXES, Format, by_content, by_suffix
from sa_flax.pictures.picture import Picture, without_unknown
from sa_flax.pictures.pillow import one_error, quiet_pillow
from sa_flax.pictures.plugged import how_to_install


def read_picture(path: str | os.PathLike[str], *, most_pixels: int | None = None) -> Picture:
    """Reads a picture file. Palettes become RGB(A), black-and-white gray, CMYK and LAB RGB.

    Args:
      path: a file in one of `formats.FORMATS`, whatever its name ends in.
      most_pixels: the limit, in the place of `limits.MOST_PIXELS` and SA_FLAX_MOST_PIXELS.

    Raises:
      InputError: naming the file, where it is missing, no picture, cut short, larger than the
        limit, holds several (`read_pages` reads those), or needs a package that is not installed.
    """
    pages = _read(path, most_pixels, several=False)
    return pages[0]


def read_pages(path: str | os.PathLike[str], *, most_pixels: int | None = None) -> list[Picture]:
    """Reads all pages of a picture file: of a TIFF file as many as it has, of all others one.

    Thumbnails and reduced copies are no pages. The limit holds for all pages together.

    Raises:
      InputError: as `read_picture`, and for an animation.
    """
    return _read(path, most_pixels, several=True)


def decode_pages(
    encoded: bytes, *, name: str = "", most_pixels: int | None = None
) -> list[Picture]:
    """`read_pages` for the content of a file, from a pipe say.

    Args:
      encoded: the content.
      name: its name, where it has one: cameras' raw files are told by nothing else.
      most_pixels: as for `read_picture`.

    Raises:
      InputError: as `read_pages`; the message names no file.
    """
    return _decode(encoded, name, limits.most_pixels(most_pixels), several=True)


def _decode(encoded: bytes, name: str, limit: int, *, several: bool) -> list[Picture]:
    with quiet_pillow():
        pages = decode(encoded, name=name, limit=limit)
        if pages.number > 1:
            if pages.moving:
                raise InputError(
                    f"is an animation of {pages.number} frames; save one as a picture."
                )
            if not several:
                raise InputError(f"holds {pages.number} pages; save one as a picture.")
            limits.check_size(*pages.size, limit, pages=pages.number)
        with one_error():
            return [pages.read(number) for number in range(pages.number)]


def _read(path: str | os.PathLike[str], most_pixels: int | None, *, several: bool) -> list[Picture]:
    path = Path(path)
    limit = limits.most_pixels(most_pixels)
    try:
        return _decode(read_bytes(path, limit), path.name, limit, several=several)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_picture(
    path: str | os.PathLike[str], picture: Picture, *, quality: int | None = None
) -> None:
    """Writes a picture in the format of the file's suffix, whole or not at all.

    Args:
      path: where to; folders that are missing are made.
      picture: pixels and metadata, of which the format's share is written.
      quality: 1 to 100, for the formats that lose something. Without it, JPEG is written as it came
        (quantisation tables and subsampling), WebP without loss unless the picture came with loss,
        and all else at a quality that hides the loss.

    Raises:
      InputError: naming the file, where `what_cannot_be_written` says so, for a wrong quality, and
        where it can't be written.
    """
    _write(path, [picture], quality)


def write_pages(
    path: str | os.PathLike[str], pages: Sequence[Picture], *, quality: int | None = None
) -> None:
    """Writes several pictures as the pages of a TIFF file; a single one as `write_picture` does."""
    _write(path, pages, quality)


def encode_pages(pages: Sequence[Picture], suffix: str, *, quality: int | None = None) -> bytes:
    """The content that `write_pages` writes to a file with this suffix, for a pipe say.

    Raises:
      InputError: as `write_picture`; the message names no file.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"the quality must be 1 to 100; got {quality}.")
    entry = by_suffix(f"a{suffix}")
    if entry is None:
        raise InputError(f"can't write this kind of file; use {', '.join(_written_suffixes())}.")
    pages = [_fit(entry, page) for page in pages]
    for page in pages:
        if reason := what_cannot_be_written(f"a{suffix}", page.pixels, pages=len(pages)):
            raise InputError(f"can't be written ({reason}).")
    file = io.BytesIO()
    try:
        with quiet_pillow():
            if len(pages) > 1:
                from sa_flax.pictures.tiff_writer import write_pages as write_tiff_pages

                write_tiff_pages(file, pages)
            else:
                entry.function(entry.writer)(file, pages[0], quality)
    except Exception as error:  # an encoder's
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"can't be written ({reason[:200]}).") from error
    return file.getvalue()


def _write(path: str | os.PathLike[str], pages: Sequence[Picture], quality: int | None) -> None:
    path = Path(path)
    try:
        content = encode_pages(pages, path.suffix, quality=quality)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    try:
        write_whole(path, content)
    except StorageError as error:
        raise InputError(str(error)) from error


def _fit(entry: Format, page: Picture) -> Picture:
    """The page without what the format would take for something else."""
    metadata = page.metadata
    # In other formats, a channel that is not known to be alpha would become it.
    pixels = page.pixels if entry.name == "TIFF" else without_unknown(page)
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return Picture(pixels, fitting(metadata, pixels, knows_gray=entry.gray))


def what_cannot_be_written(
    path: str | os.PathLike[str], pixels: Any, *, pages: int = 1
) -> str | None:
    """Why pixels of this kind can't be written under this name, with what helps; None if they can.

    To be asked before the work is done, of the picture that was read.

    Args:
      path: the name, of which the suffix counts.
      pixels: an array, or anything with the `shape` and `dtype` of one.
      pages: how many of them are to be written into the one file.
    """
    entry = by_suffix(path)
    suffix = Path(path).suffix.lower()
    if entry is None:
        return f"{suffix or 'no suffix'} is no suffix of a picture; choose one with --format"
    instead = dict(entry.instead).get(suffix)
    if not entry.writer or instead:
        return f"{suffix} files are not written; use --format {(instead or '.png')[1:]}"
    if entry.is_missing:
        return f"{entry.name} {how_to_install(entry.extra)[:-1]}"
    kind, shape = np.dtype(pixels.dtype), tuple(pixels.shape)
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels > 4 or 0 in shape:
        return f"no picture has the shape {shape}"
    if pages > 1 and entry.name != "TIFF":
        return f"{entry.name} files hold one page, this one has {pages}; use --format tif"
    if kind.name not in entry.numbers:
        bits = {"u": "bits", "i": "bits and a sign", "f": "bits, floating point"}.get(kind.kind)
        deepest = 16 if "uint16" in entry.numbers else 8
        return (
            f"{entry.name} files hold {deepest} bits at most, this picture has "
            f"{8 * kind.itemsize} {bits}; use --format {'png' if kind == np.uint16 else 'tif'}"
        )
    if channels in (2, 4) and not entry.alpha:
        return (
            f"{entry.name} files hold no transparency, this picture has some; name it .png, or use "
            "--format png"
        )
    if max(shape[:2]) > entry.side:
        return (
            f"a side of {entry.name} files has at most {entry.side} pixels, this picture is "
            f"{shape[1]} x {shape[0]}; name it .png, or use --format png"
        )
    return None


def output_suffix(path: str | os.PathLike[str], content: bytes = b"") -> str:
    """The suffix under which the result of a picture file is written: mostly its own.

    Of formats that aren't written it is that of the nearest which is (.png for .gif, .tif for a
    camera's raw file). For a name without a picture's suffix it is that of the format that
    `content` (the file's first 32 bytes are enough) has, or .png.
    """
    suffix = Path(path).suffix
    entry = by_suffix(path)
    if entry is None:
        entry = by_content(content[:32])
        suffix = entry.suffixes[0] if entry else ".png"
    return dict(entry.instead).get(suffix.lower(), suffix) if entry else suffix


def start_of(path: str | os.PathLike[str]) -> bytes:
    """The first 32 bytes of a file, which tell its format; none where it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except OSError:
        return b""


def _written_suffixes() -> list[str]:
    return [
        suffix
        for entry in FORMATS
        if entry.writer and not entry.is_missing
        for suffix in entry.suffixes
        if suffix not in dict(entry.instead)
    ]


class LeftOut(NamedTuple):
    """A file or folder that was left out, and why."""

    path: Path
    reason: str


class Survey(NamedTuple):
    """What a folder holds: pictures, and what was left out but for hidden files; both sorted."""

    pictures: list[Path]
    left_out: list[LeftOut]


def survey(
    folder: str | os.PathLike[str], refuse: Callable[[Path], str] = lambda path: ""
) -> Survey:
    """Looks for pictures in `folder` and below, by their names; hidden ones are left out.

    Left out with a reason are folders that can't be listed, files with another suffix, and those
    that need a package which is not installed. Links to folders are followed, but no folder is
    listed twice: a link may lead in a circle.

    Args:
      folder: where to look.
      refuse: says of a folder below why it is left out, or "".
    """
    pictures: list[Path] = []
    left_out: list[LeftOut] = []
    listed: set[str] = set()

    def not_listed(error: OSError) -> None:
        left_out.append(LeftOut(Path(error.filename), f"can't be listed ({error.strerror})"))

    for directory, subdirectories, files in os.walk(folder, onerror=not_listed, followlinks=True):
        place = os.path.realpath(directory)
        if place in listed:
            subdirectories.clear()
            continue
        listed.add(place)
        subdirectories[:] = sorted(d for d in subdirectories if not d.startswith("."))
        for path in [Path(directory, name) for name in subdirectories]:
            if reason := refuse(path):
                left_out.append(LeftOut(path, reason))
                subdirectories.remove(path.name)
        for file in files:
            if file.startswith("."):
                continue
            path = Path(directory, file)
            if reason := _why_left_out(path):
                left_out.append(LeftOut(path, reason))
            else:
                pictures.append(path)
    return Survey(sorted(pictures), sorted(left_out))


def _why_left_out(path: Path) -> str:
    entry = by_suffix(path)
    if entry is None:
        if not path.suffix:
            return "has no suffix"
        return f"{path.suffix.lower()} is no suffix of a picture that can be read"
    return f"{entry.name} {how_to_install(entry.extra)[:-1]}" if entry.is_missing else ""


def find_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures in `folder` and below, sorted; `survey` says what was left out, too."""
    return survey(folder).pictures


__all__ = [
    "SUFFIXES",
    "LeftOut",
    "Picture",
    "Survey",
    "decode_pages",
    "encode_pages",
    "find_pictures",
    "output_suffix",
    "read_pages",
    "read_picture",
    "start_of",
    "survey",
    "what_cannot_be_written",
    "write_pages",
    "write_picture",
]
