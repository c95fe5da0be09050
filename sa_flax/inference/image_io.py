"""Picture files to arrays and back, keeping what a person would miss: alpha, profile, bit depth.

PNG, JPEG, TIFF, WebP and BMP through Pillow. Files are written whole or not at all.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sa_flax.data.builders import SUFFIXES
from sa_flax.errors import InputError

_EXIF_ORIENTATION = 0x0112


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
      InputError: naming the file, where it is missing, no picture, cut short, animated, or of a
        kind that would lose depth (16-bit colour, floating point).
    """
    if not path.exists():
        raise InputError(f"{path}: no such file.")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a picture.")
    try:
        if _is_deep_colour_png(path):
            raise InputError(
                f"{path}: 16-bit colour can't be read without losing depth yet; save it as 8-bit "
                "colour or 16-bit gray."
            )
        with Image.open(path) as opened:
            frames = getattr(opened, "n_frames", 1)
            if frames > 1:
                raise InputError(f"{path}: holds {frames} frames; save one as a picture.")
            opened.load()
            exif = opened.getexif()
            exif.pop(_EXIF_ORIENTATION, None)
            metadata = {"icc_profile": opened.info.get("icc_profile"), "exif": exif.tobytes()}
            upright = ImageOps.exif_transpose(opened)
            pixels = _pixels(upright, path)
            if opened.mode in ("CMYK", "P", "PA", "1"):
                metadata["icc_profile"] = None  # it describes the colours that were converted
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise all sorts of errors
        raise InputError(f"{path}: not a readable picture ({error}).") from error
    return Picture(pixels, {name: value for name, value in metadata.items() if value})


def _pixels(picture: Image.Image, path: Path) -> np.ndarray:
    mode = picture.mode
    if mode in ("L", "LA", "RGB", "RGBA"):
        if mode in ("L", "RGB") and picture.has_transparency_data:
            mode += "A"
        return np.asarray(picture.convert(mode))
    if mode.startswith("I"):  # 16-bit gray, which Pillow holds in 16 or 32 bits
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path}: has 32-bit values; save it with 16 bits.")
        return values.astype(np.uint16)
    if mode == "F":
        raise InputError(f"{path}: has floating-point values; save it with 8 or 16 bits.")
    if mode == "1":
        return np.asarray(picture.convert("L"))
    return np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def _is_deep_colour_png(path: Path) -> bool:
    """Whether a PNG has 16 bits in more than one channel; Pillow would drop the lower eight."""
    with path.open("rb") as file:
        header = file.read(26)
    return header[:8] == b"\x89PNG\r\n\x1a\n" and header[24:25] == b"\x10" and header[25:] != b"\0"


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
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(temporary, **options)
        temporary.replace(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be written ({error}).") from error
    finally:
        temporary.unlink(missing_ok=True)
