"""What stands beside a picture's pixels, brought into one form whatever file it comes from."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from sa_flax.pictures.limits import MOST_COMPANION_BYTES
from sa_flax.pictures.tags import (
    Directory,
    carried,
    carried_xmp,
    orientation,
    pack_exif,
    read_exif,
)


def companions(
    *,
    profile: bytes | None = None,
    exif: bytes | None = None,
    directory: tuple[Directory, str] | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    text: Sequence[tuple[str, str]] = (),
) -> tuple[dict[str, Any], int]:
    """A picture's metadata, as `Picture` describes them, and how it must be turned to be upright.

    Args:
      profile: its ICC profile.
      exif: its EXIF data, or
      directory: the TIFF directory and byte order that it has in their stead.
      xmp: its XMP packet.
      dpi: pixels in an inch, across and down.
      text: pairs of name and text.
    """
    metadata: dict[str, Any] = {}
    if profile and len(profile) <= MOST_COMPANION_BYTES:
        metadata["icc_profile"] = bytes(profile)
    tags, order = directory or read_exif(exif or b"")
    packet, turn = carried_xmp(xmp or b"")
    turn = orientation(tags, order) if 0x0112 in tags else turn
    turned = turn > 4
    if kept := pack_exif(carried(tags, turned=turned), order):
        metadata["exif"] = kept
    if packet.strip(b"\0 \n"):
        metadata["xmp"] = packet
    if dpi and all(0.01 < d < 1e6 for d in dpi):
        metadata["dpi"] = (float(dpi[turned]), float(dpi[not turned]))
    if text:
        metadata["text"] = tuple(text)
    return metadata, turn


def fitting(
    metadata: dict[str, Any], pixels: np.ndarray, *, knows_gray: bool = True
) -> dict[str, Any]:
    """The metadata without a profile for colours that such pixels can't have.

    One for RGB stays with a gray picture: many have it so. One for gray doesn't where the format
    stores gray as RGB.
    """
    profile = metadata.get("icc_profile", b"")
    gray = knows_gray and (pixels.ndim == 2 or pixels.shape[2] < 3)
    possible = (b"RGB ", b"GRAY") if gray else (b"RGB ",)
    if profile[36:40] == b"acsp" and profile[16:20] not in possible:
        return {name: value for name, value in metadata.items() if name != "icc_profile"}
    return metadata


def raw_profile(text: str) -> bytes:
    """The bytes in a "Raw profile type" text, as ImageMagick writes them in PNG; b"" if broken."""
    lines = re.sub(r"\A\s*\w+\s+\d+\s", "", text.strip())
    try:
        return bytes.fromhex("".join(lines.split()))
    except ValueError:
        return b""
