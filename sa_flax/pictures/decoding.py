"""From bytes to pixels: which format it is, how large, and one error for what can't be read."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures import limits
from sa_flax.pictures.formats import FORMATS, Format, by_content, by_suffix
from sa_flax.pictures.picture import Pages, Picture, without_unknown
from sa_flax.pictures.pillow import one_error, open_image, quiet_pillow
from sa_flax.pictures.plugged import how_to_install

# From so many bytes on, a file's header is read before the rest.
_LARGE = 2**25


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file.

    Raises:
      InputError: where it is missing, no regular file (reading a pipe might never end), can't be
        read, or is larger than any picture of `limit` pixels. The message does not name it.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError("is a folder, not a picture.")
        if not stat.S_ISREG(mode):
            raise InputError("is a pipe or a device, not a file.")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            limits.check_bytes(size, limit)
            if size > _LARGE:
                _check_header(file, Path(path), size, limit)
            return file.read()
    except FileNotFoundError as error:
        broken = os.path.islink(path)
        reason = "is a link to a file that is not there." if broken else "no such file."
        raise InputError(reason) from error
    except OSError as error:
        raise InputError(f"can't be opened ({error.strerror}).") from error
    except MemoryError as error:
        raise InputError("needs more memory than there is; cut it into parts.") from error


def _check_header(file: BinaryIO, path: Path, size: int, limit: int) -> None:
    """Raises InputError for a large file that can't be a picture, by its header alone."""
    entry = _format_of(file.read(32), path)
    file.seek(0)
    # Pillow reads the others whole, or they may hold more than a picture: layers, previews.
    kind = {"PNG": "PNG", "JPEG": "JPEG", "BMP": "BMP", "GIF": "GIF", "PNM": "PPM"}.get(entry.name)
    if kind is None:
        return
    try:
        width, height = open_image(file, kind, limit).size
        limits.check_bytes(size, width * height)
    except limits.TooLargeError:
        raise
    except InputError:  # broken, perhaps only beside the pixels; its reader will know
        pass
    finally:
        file.seek(0)


def _format_of(start: bytes, name: str | os.PathLike[str]) -> Format:
    named = by_suffix(name)
    entry = named if named is not None and not named.start else by_content(start)
    if entry is None:
        known = ", ".join(e.name for e in FORMATS if e.start)
        raise InputError(f"not a readable picture (none of {known} by its content).")
    return entry


def decode(data: bytes, *, name: str | os.PathLike[str] = "", limit: int) -> Pages:
    """Reads the header of a picture file, whatever its name ends in: its content counts.

    A reader, as `formats.FORMATS` names them, is a function of the file's content and `limit` that
    returns `Pages`. It looks at sizes before it decodes anything, raises InputError for what it
    can't read, and reads good pixels whatever is wrong with what stands beside them.

    Args:
      data: the whole file.
      name: its name, for the formats that nothing else tells (cameras' raw files).
      limit: the most pixels that are decoded.

    Raises:
      InputError: for what is no picture, needs a package that is not installed, or is larger than
        `limit`. The message does not name the file.
    """
    entry = _format_of(data[:32], name)
    if entry.is_missing:
        raise InputError(f"{entry.name} {how_to_install(entry.extra)}")
    with one_error():
        return entry.function(entry.reader)(data, limit)


def decode_rgb8(encoded: bytes | BinaryIO, *, most_pixels: int | None = None) -> np.ndarray:
    """Decodes a picture to (H, W, 3) uint8 as training sees it.

    Turned upright by its EXIF tag; gray repeated; palettes looked up; 16 bits rounded to 8;
    transparent parts laid over white, as viewers show them; of several pages or frames the first.

    Args:
      encoded: the content of a picture file, or the open file.
      most_pixels: the limit, in the place of `limits.MOST_PIXELS`.

    Raises:
      InputError: for what is not a complete picture, and for values without a fixed range (32-bit
        and signed integers, floating point).
    """
    data = encoded if isinstance(encoded, bytes) else encoded.read()
    return _rgb8(_first(decode(data, limit=limits.most_pixels(most_pixels))))


def read_rgb8(path: str | os.PathLike[str], *, most_pixels: int | None = None) -> np.ndarray:
    """The picture in a file, as `decode_rgb8` gives it. Raises InputError, naming the file."""
    path = Path(path)
    limit = limits.most_pixels(most_pixels)
    try:
        with quiet_pillow():
            return _rgb8(_first(decode(read_bytes(path, limit), name=path.name, limit=limit)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _first(pages: Pages) -> Picture:
    with one_error():
        return pages.read(0)


def _rgb8(picture: Picture) -> np.ndarray:
    pixels = without_unknown(picture)
    if pixels.dtype.kind == "f":
        raise InputError("floating-point pictures have no fixed range; save it as 8 or 16 bits.")
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        signed = "signed " if pixels.dtype.kind == "i" else ""
        raise InputError(
            f"has {8 * pixels.dtype.itemsize}-bit {signed}integers, which have no fixed range; "
            "save it with 8 or 16 bits, unsigned."
        )
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    image = Image.fromarray(pixels)
    if image.mode in ("LA", "RGBA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
