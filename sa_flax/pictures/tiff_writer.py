"""TIFF files, written: any depth that numpy has, several pages, EXIF data as directories."""

import io
import lzma
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures.companions import fitting
from sa_flax.pictures.picture import Picture
from sa_flax.pictures.tags import Directory, Field, in_order, pack_directory, read_exif

_CODES = {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773, "lzma": 34925}
_PREDICTED = ("lzw", "deflate", "lzma")
_STRIP_BYTES = 2**18
_MOST_BYTES = 2**32 - 2**20


def write(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a TIFF file of one page; see `files.write_picture`."""
    del quality  # nothing is lost
    write_pages(file, [picture])


def write_pages(file: BinaryIO, pages: Sequence[Picture]) -> None:
    """Writes a TIFF file, each page with the compression it came with, or deflate.

    Raises:
      InputError: where it would be larger than TIFF can be (4 GB).
    """
    if sum(page.pixels.nbytes for page in pages) > _MOST_BYTES:
        raise InputError("is larger than TIFF files can be (4 GB); write its pages apart.")
    file.write(b"II*\0" + bytes(4))
    link = 4  # where the place of the next page's directory is noted
    for number, page in enumerate(pages):
        strips, directory = _strips(page)
        offsets = []
        for strip in strips:
            offsets.append(file.tell())
            file.write(strip + bytes(len(strip) % 2))
        directory[273] = _longs(*offsets)
        directory[279] = _longs(*(len(strip) for strip in strips))
        if len(pages) > 1:
            directory[254] = _longs(2)
            directory[297] = _shorts(number, len(pages))
        here = file.tell()
        file.write(pack_directory(directory, "<", here))
        end = file.tell()
        file.write(bytes(end % 2))
        file.seek(link)
        file.write(struct.pack("<I", here))
        file.seek(end + end % 2)
        link = here + 2 + 12 * len(directory)


def _shorts(*values: int) -> Field:
    return Field(3, struct.pack(f"<{len(values)}H", *values))


def _longs(*values: int) -> Field:
    return Field(4, struct.pack(f"<{len(values)}I", *values))


def _strips(page: Picture) -> tuple[list[bytes], Directory]:
    """The pixels in strips, and the page's directory without where they stand."""
    pixels = page.pixels.astype(page.pixels.dtype.newbyteorder("<"))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    height, width, channels = pixels.shape
    black = 0 if page.metadata.get("white_is_zero") and pixels.dtype.kind != "u" else 1
    compression = page.metadata.get("compression")
    compression = compression if compression in _CODES else "deflate"
    whole = pixels.dtype.kind in "iu"
    predicted = compression in _PREDICTED and whole and pixels.dtype.itemsize < 8
    rows = max(1, _STRIP_BYTES // (width * channels * pixels.dtype.itemsize))
    directory = _beside(page)
    directory |= {
        256: _longs(width),
        257: _longs(height),
        258: _shorts(*[8 * pixels.dtype.itemsize] * channels),
        259: _shorts(_CODES[compression]),
        262: _shorts(2 if channels > 2 else black),
        277: _shorts(channels),
        278: _longs(min(rows, height)),
        284: _shorts(1),
        339: _shorts(*[{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * channels),
    }
    if channels in (2, 4):
        directory[338] = _shorts(0 if page.metadata.get("fourth") else 2)
    if predicted:
        directory[317] = _shorts(2)
    strips = []
    for start in range(0, height, rows):
        strip = pixels[start : start + rows]
        if predicted:
            strip = np.concatenate([strip[:, :1], np.diff(strip, axis=1)], axis=1)
        strips.append(_packed(np.ascontiguousarray(strip), compression))
    return strips, directory


def _packed(strip: np.ndarray, compression: str) -> bytes:
    if compression == "none":
        return strip.tobytes()
    if compression == "deflate":
        return zlib.compress(strip.tobytes())
    if compression == "lzma":
        return lzma.compress(strip.tobytes())
    # The rest by Pillow's libtiff: bytes are packed alike, whatever they mean.
    rows = strip.view(np.uint8).reshape(len(strip), -1)
    file = io.BytesIO()
    name = {"lzw": "tiff_lzw", "packbits": "packbits"}[compression]
    Image.fromarray(rows).save(file, "TIFF", compression=name, strip_size=rows.size)
    with Image.open(file, formats=("TIFF",)) as packed:
        tags: Any = packed.tag_v2  # type: ignore[attr-defined]
        offsets, counts = tags[273], tags[279]
    if len(offsets) != 1:
        raise ValueError("a strip was cut")
    return file.getvalue()[offsets[0] : offsets[0] + counts[0]]


def _beside(page: Picture) -> Directory:
    metadata = fitting(page.metadata, page.pixels)
    exif, order = read_exif(metadata.get("exif", b""))
    directory = in_order(exif, order, "<")
    if profile := metadata.get("icc_profile"):
        directory[34675] = Field(7, profile)
    if xmp := metadata.get("xmp"):
        directory[700] = Field(1, xmp)
    if dpi := metadata.get("dpi"):
        for tag, value in zip((282, 283), dpi, strict=True):
            directory[tag] = _longs(*Fraction(value).limit_denominator(10_000).as_integer_ratio())
            directory[tag] = Field(5, directory[tag].data)  # type: ignore[union-attr]
        directory[296] = _shorts(2)
    return directory
