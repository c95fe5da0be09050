"""Picture files and Pillow: which formats, how large, and one error for what can't be read."""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from sa_flax.errors import InputError

# What pictures may be inside, whatever their names end in. Pillow knows more, among them EPS, which
# it would hand to Ghostscript.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "GIF")

# As many as Pillow decodes unless told otherwise: a file of a few bytes can claim any size.
MOST_PIXELS = 178_956_970


class Decoded(NamedTuple):
    """What Pillow made of a file.

    Attributes:
      image: the first frame, loaded and turned upright by its EXIF tag.
      frames: how many pictures the file holds; 1 for a photograph with previews or a depth map.
      deep_colour: whether it has 16 bits in more than one channel, of which Pillow keeps eight.
      exif: the file's EXIF data.
    """

    image: Image.Image
    frames: int
    deep_colour: bool
    exif: Image.Exif


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Inside, Pillow's warnings are not shown: what matters of them becomes an error.

    It warns of odd metadata, and of pictures half as large as those it refuses. Not for threads:
    Python's warning filters are one for all.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to be read.

    Raises:
      InputError: where it is missing, no regular file (reading a pipe might never end), or can't
        be opened.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: is a folder, not a picture.")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is a pipe or a device, not a file.")
        return path.open("rb")
    except FileNotFoundError as error:
        broken = os.path.islink(path)
        reason = "is a link to a file that is not there." if broken else "no such file."
        raise InputError(f"{path}: {reason}") from error
    except OSError as error:
        raise InputError(f"{path}: can't be opened ({error.strerror}).") from error


def decode(file: BinaryIO) -> Decoded:
    """Decodes a picture file completely.

    Raises:
      InputError: for what is no whole picture in one of `FORMATS`, and for more than `MOST_PIXELS`.
    """
    # Damaged files make Pillow's decoders fail in any way whatever, so nothing but Pillow's own
    # work stands in here.
    try:
        with Image.open(file, formats=FORMATS) as opened:
            # The other pictures in an MPO file belong to the first: previews, depth, gain maps.
            frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
            deep = _is_deep_colour(opened)
            opened.load()
            return Decoded(ImageOps.exif_transpose(opened), frames, deep, opened.getexif())
    except Image.DecompressionBombError as error:
        raise InputError(
            f"claims to have more than {MOST_PIXELS / 1e6:.0f} million pixels, the most that are "
            "decoded; if it has them, cut it into parts."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"not a readable picture (none of {', '.join(FORMATS)} by its content)."
        ) from error
    except MemoryError as error:
        raise InputError("needs more memory than there is; cut it into parts.") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"not a readable picture ({reason[:200]}).") from error


def _is_deep_colour(opened: Image.Image) -> bool:
    if opened.mode.startswith("I"):
        return False
    for tile in getattr(opened, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(a, str) and ";16" in a for a in arguments):
            return True
        if tile[0].startswith("ppm") and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return True
    return False


def gray16(image: Image.Image) -> np.ndarray:
    """The values of a picture in one of Pillow's integer modes: (H, W) uint16.

    Raises:
      InputError: where values don't fit 16 bits.
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError("has 32-bit values; save it with 16 bits.")
    return values.astype(np.uint16)


def decode_rgb8(encoded: bytes | BinaryIO) -> np.ndarray:
    """Decodes a picture to (H, W, 3) uint8 as training sees it.

    Turned upright by its EXIF tag; gray repeated; palettes looked up; 16 bits rounded to 8;
    transparent parts laid over white, as viewers show them; of an animation the first frame.

    Raises:
      InputError: for what is not a complete picture, and for values without a fixed range (32-bit
        integers, floating point).
    """
    picture = decode(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded).image
    if picture.mode.startswith("I"):  # 16-bit gray; Pillow itself would clip it at 255
        picture = Image.fromarray(np.round(gray16(picture) / 257).astype(np.uint8))
    elif picture.mode == "F":
        raise InputError("floating-point pictures have no fixed range; save it as 8 or 16 bits.")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def read_rgb8(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture in a file, as `decode_rgb8` gives it. Raises InputError, naming the file."""
    with open_file(path) as file:
        try:
            with quiet_pillow():
                return decode_rgb8(file)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
