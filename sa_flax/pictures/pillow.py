"""Pillow, asked for pixels alone: one format at a time, with one error for all that goes wrong."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures.limits import VARIABLE, TooLargeError, check_size


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Inside, Pillow's warnings are not shown: what matters of them becomes an error.

    It warns of odd metadata, and of pictures half as large as those it refuses. Not for threads:
    Python's warning filters are one for all.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """Whatever a decoder raises inside comes out as InputError.

    Damaged files make decoders fail in any way whatever (struct.error, zlib.error, SyntaxError,
    KeyError, RuntimeError ...), so nothing but a decoder's own work stands inside.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError("needs more memory than there is; cut it into parts.") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"not a readable picture ({reason[:200]}).") from error


def open_image(data: bytes | BinaryIO, kind: str, limit: int) -> Image.Image:
    """A picture in Pillow's format `kind`, its header read.

    Raises:
      InputError: for what is none;
      TooLargeError: for one of more than `limit` pixels.
    """
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = (limit + 1) // 2  # Pillow refuses from twice as many on
    with one_error():
        try:
            file = io.BytesIO(data) if isinstance(data, bytes) else data
            image = Image.open(file, formats=(kind,))
        except Image.DecompressionBombError as error:
            raise TooLargeError(
                f"claims to have more than {limit / 1e6:.0f} million pixels, the most that are "
                f"decoded. If it has them, raise the limit (the environment's {VARIABLE}), or cut "
                "it into parts."
            ) from error
        except Image.UnidentifiedImageError as error:
            raise InputError(
                "not a readable picture (its header is damaged, or it is of a rare kind)."
            ) from error
    check_size(*image.size, limit)
    return image


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels as `Picture` has them: palettes looked up, CMYK and others as RGB.

    Raises:
      InputError: where they can't be decoded, or don't fit 16 bits.
    """
    with one_error():
        image.load()
        mode = image.mode
        transparent = image.has_transparency_data
        if mode in ("L", "LA", "RGB", "RGBA"):
            if mode in ("L", "RGB") and transparent:
                image = image.convert(mode + "A")
            return np.asarray(image)
        if mode == "1":
            gray = np.asarray(image.convert("L"))
            return with_key(gray, image.info.get("transparency"), top=255)
        if mode == "F":
            return np.asarray(image)
        if mode.startswith("I"):  # 16-bit gray, which Pillow holds in 16 or 32 bits
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                raise InputError("has 32-bit values; save it with 16 bits.")
            return values.astype(np.uint16)
        return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def with_key(pixels: np.ndarray, key: object, *, top: int) -> np.ndarray:
    """(H, W) or (H, W, 3) with an alpha channel that hides what has the colour `key`, if any."""
    if key is None:
        return pixels
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    hidden = (pixels == np.asarray(key)).all(axis=-1, keepdims=True)
    alpha = np.where(hidden, 0, top).astype(pixels.dtype)
    return np.concatenate([pixels, alpha], axis=-1)
