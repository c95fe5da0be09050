"""The values of pictures: unit range, alpha, channels, pictures side by side."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from sa_flax.errors import InputError


class Span(NamedTuple):
    """What unit values stand for: `low` is 0, `high` is 1, in pixels of `dtype`."""

    low: float
    high: float
    dtype: np.dtype


def span(pixels: np.ndarray) -> Span:
    """The range in which a picture's values mean black to white.

    That of uint8 and uint16 is the whole dtype. Signed and wider integers and floating point have
    no white of their own: theirs reaches from the smaller of 0 and the least value to the largest
    value, or to 1 for floats that stay below.

    Args:
      pixels: integers or floats of any shape.

    Raises:
      InputError: for values that are not finite, and for other kinds of values.
    """
    kind = pixels.dtype
    if kind in (np.uint8, np.uint16):
        return Span(0.0, float(np.iinfo(kind).max), kind)
    if kind.kind not in "iuf":
        raise InputError(f"pictures hold integers or floating-point values; got {kind}.")
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 1.0)
    if not np.isfinite([low, high]).all():
        raise InputError("has values that are not finite (NaN or infinity).")
    return Span(min(low, 0.0), max(high, 1.0), kind)


def to_unit(pixels: np.ndarray) -> tuple[np.ndarray, Span]:
    """Pixels as float32 in [0, 1], and what those stand for: `(pixels - low) / (high - low)`.

    Raises InputError as `span` does.
    """
    scale = span(pixels)
    if scale.low == 0:
        return pixels.astype(np.float32) / np.float32(scale.high), scale
    wide = pixels.astype(np.float64)
    return ((wide - scale.low) / (scale.high - scale.low)).astype(np.float32), scale


def from_unit(unit: np.ndarray, scale: Span) -> np.ndarray:
    """The other way: [0, 1], clipped, to the picture's own values; integers are rounded.

    Raises:
      InputError: for values that are not finite, which integers would hide.
    """
    if not np.isfinite(unit).all():
        raise InputError("the result holds values that are not finite.")
    values = np.clip(unit, 0, 1).astype(np.float64) * (scale.high - scale.low) + scale.low
    if scale.dtype.kind in "iu":
        limits = np.iinfo(scale.dtype)
        values = np.clip(np.round(values), limits.min, limits.max)
    return values.astype(scale.dtype)


def split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., H, W, C) in colours and alpha: C 2 and 4 have one alpha channel, 1 and 3 have none.

    The second array may have no channels; concatenated on the last axis, both are `pixels` again.
    """
    colours = pixels.shape[-1] - (pixels.shape[-1] in (2, 4))
    return pixels[..., :colours], pixels[..., colours:]


def on_colours(function: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """A picture of any kind through a function of unit values; alpha stays bit for bit.

    Args:
      function: takes and returns (H, W, C) float32 in [0, 1], C 1 or 3.
      pixels: (H, W) or (H, W, C), C 1 to 4, whose range is that of its colours (`span`).

    Raises InputError as `span` and `from_unit` do.
    """
    colour, alpha = split_alpha(pixels[..., None] if pixels.ndim == 2 else pixels)
    unit, scale = to_unit(colour)
    result = from_unit(function(unit), scale)
    return np.concatenate([result, alpha], axis=-1).reshape(pixels.shape)


def is_gray(pixels: np.ndarray) -> bool:
    """Whether a picture (H, W) or (H, W, C) has one colour channel, or three that are equal."""
    if pixels.ndim == 2 or pixels.shape[-1] < 3:
        return True
    first = pixels[..., 0]
    return all(np.array_equal(first, pixels[..., channel]) for channel in (1, 2))


def to_channels(rgb: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, 3) uint8 as it is, or as (H, W, 1) luma (ITU-R 601)."""
    if channels == 3:
        return rgb
    return np.asarray(Image.fromarray(rgb).convert("L"))[..., None]


def side_by_side(pictures: Sequence[np.ndarray], *, gap: int = 4) -> np.ndarray:
    """Float pictures (H, W, C) in [0, 1], clipped and put in a row: (H, W', 3) uint8."""
    columns = []
    for picture in pictures:
        shown = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
        columns.append(np.repeat(shown, 3 // shown.shape[-1], axis=-1))
        columns.append(np.full((shown.shape[0], gap, 3), 255, np.uint8))
    return np.concatenate(columns[:-1], axis=1)
