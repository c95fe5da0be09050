"""What a picture file is, once it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Picture:
    """A decoded picture, or one page of several.

    Attributes:
      pixels: (H, W) or (H, W, C); C is 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha). uint8 or
        uint16; from TIFF files also signed and 32-bit integers and floating point, as they are
        stored (`values.to_unit` knows their range). Upright: the camera's orientation tag is
        applied.
      metadata: what is written again beside the pixels, as far as the format can hold it:
        `icc_profile`, `exif`, `xmp` (bytes), `dpi` (x, y), `text` (pairs of name and text), and
        how the file was compressed; `fourth`, where the last channel is something else than alpha;
        `white_is_zero`, where gray values without a white of their own are stored upside down. What
        shows the picture itself (previews, thumbnails, layers) is not among it.
    """

    pixels: np.ndarray
    metadata: dict[str, Any]


class Pages(NamedTuple):
    """A picture file whose header was read and whose pixels were not yet.

    Attributes:
      number: how many pictures it holds, not counting previews.
      read: decodes one, by its number.
      moving: whether they are the frames of an animation.
      size: width and height of the largest of several pages.
    """

    number: int
    read: Callable[[int], Picture]
    moving: bool = False
    size: tuple[int, int] = (1, 1)


def without_unknown(picture: Picture) -> np.ndarray:
    """The pixels without a last channel that the file did not say to be alpha (`fourth`)."""
    if not picture.metadata.get("fourth"):
        return picture.pixels
    known = picture.pixels[..., :-1]
    return np.ascontiguousarray(known[..., 0] if known.shape[-1] == 1 else known)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) turned and mirrored as the EXIF orientation 1 to 8 says; others change nothing.

    5 to 8 exchange height and width.
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
