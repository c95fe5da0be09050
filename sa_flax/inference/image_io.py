"""Picture files to arrays and back, keeping what a person would miss: alpha, profile, bit depth.

PNG, JPEG, TIFF, WebP and BMP through Pillow. Files are written whole or not at all.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sa_flax.data.builders import SUFFIXES
from sa_flax.data.decoding import Decoded, decode, gray16, open_file, quiet_pillow
from sa_flax.errors import InputError

# The EXIF data of a TIFF file hold all its tags. These (by number) say how its pixels are stored,
# which is another matter in the file that is written; the orientation among them is applied.
_STORAGE_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281),
    *(284, 288, 289, 290, 291, 292, 293, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325),
    *(330, 332, 333, 334, 336, 337, 338, 339, 340, 341, 342, 347, *range(512, 522)),
    *(529, 530, 531, 532, 34675),
)


@dataclass(frozen=True)
class Picture:
    """A decoded file.

    Attributes:
      pixels: (H, W) or (H, W, C) uint8, or (H, W) uint16; C is 2 (gray, alpha), 3 (RGB) or 4 (RGB,
        alpha). Upright: the camera's orientation tag is applied.
      metadata: what Pillow needs to write the file's ICC profile and EXIF data again.
    """

    pixels: np.ndarray
    metadata: dict[str, Any]


def read_picture(path: Path) -> Picture:
    """Reads a picture file. Palettes become RGB(A), black-and-white gray, CMYK RGB.

    Raises:
      InputError: naming the file, where it is missing, no picture, cut short, animated, larger than
        `decoding.MOST_PIXELS`, or of a kind that would lose depth (16-bit colour, floating point).
    """
    with open_file(path) as file, quiet_pillow():
        try:
            decoded = decode(file)
            if decoded.frames > 1:
                raise InputError(f"holds {decoded.frames} frames; save one as a picture.")
            if decoded.deep_colour:
                raise InputError(
                    "16-bit colour can't be read without losing depth yet; save it as 8-bit colour "
                    "or 16-bit gray."
                )
            pixels, metadata = _pixels(decoded.image), _metadata(decoded)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return Picture(pixels, metadata)


def _pixels(picture: Image.Image) -> np.ndarray:
    mode = picture.mode
    if mode in ("L", "LA", "RGB", "RGBA"):
        if mode in ("L", "RGB") and picture.has_transparency_data:
            mode += "A"
        return np.asarray(picture.convert(mode))
    if mode.startswith("I"):  # 16-bit gray, which Pillow holds in 16 or 32 bits
        return gray16(picture)
    if mode == "F":
        raise InputError("has floating-point values; save it with 8 or 16 bits.")
    if mode == "1":
        return np.asarray(picture.convert("L"))
    return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _metadata(decoded: Decoded) -> dict[str, Any]:
    metadata = {}
    profile = decoded.image.info.get("icc_profile")
    # That of another mode describes colours that were converted.
    if profile and decoded.image.mode not in ("CMYK", "P", "PA", "1"):
        metadata["icc_profile"] = profile
    for tag in _STORAGE_TAGS:
        decoded.exif.pop(tag, None)
    try:
        exif = decoded.exif.tobytes()
    except Exception:  # damaged EXIF data, which Pillow reads but can't write
        return metadata
    return metadata | ({"exif": exif} if len(decoded.exif) else {})


def write_picture(path: Path, picture: Picture) -> None:
    """Writes a picture in the format of the file's suffix (JPEG at quality 95), atomically.

    Raises:
      InputError: for a suffix that is no picture's, and where the format can't hold the picture
        (alpha or 16 bits in JPEG).
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: can't write this kind of file; use {', '.join(SUFFIXES)}.")
    options: dict[str, Any] = dict(picture.metadata)
    if suffix in (".jpg", ".jpeg"):
        options |= {"quality": 95, "subsampling": 0}
    # Not named after the file, whose name may be as long as names can be.
    temporary = path.with_name(f".{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(temporary, **options)
        temporary.replace(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be written ({error}).") from error
    finally:
        with contextlib.suppress(OSError):  # it is not there, and perhaps its folder neither
            temporary.unlink()
