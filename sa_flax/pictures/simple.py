"""The formats that need no care beyond Pillow's: BMP, GIF, AVIF and the PNM family."""

import re
import struct
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures.companions import companions
from sa_flax.pictures.limits import check_size
from sa_flax.pictures.picture import Pages, Picture, upright
from sa_flax.pictures.pillow import one_error, open_image, pixels_of

# Above which AVIF's loss is hardly to be seen (libavif's scale is not JPEG's).
AVIF_QUALITY = 90


def read_bmp(data: bytes, limit: int) -> Pages:
    """A BMP file; see `decoding.decode`."""
    return _by_pillow(data, "BMP", limit)


def read_gif(data: bytes, limit: int) -> Pages:
    """A GIF file; see `decoding.decode`."""
    return _by_pillow(data, "GIF", limit)


def read_avif(data: bytes, limit: int) -> Pages:
    """An AVIF file; see `decoding.decode`. The orientation is said by the file, not by EXIF.

    Raises:
      InputError: for one of more than 8 bits, of which Pillow would keep 8.
    """
    _check_isobmff_size(data, limit)
    place = data.find(b"av1C")
    if place >= 0 and len(data) > place + 6 and data[place + 6] & 0x40:  # high_bitdepth
        raise InputError(
            "has 10 or 12 bits, of which 8 would be read; save it as 16-bit PNG or TIFF."
        )
    return _by_pillow(data, "AVIF", limit)


def _check_isobmff_size(data: bytes, limit: int) -> None:
    """The largest size that a HEIF or AVIF file names, before its decoder is asked."""
    for match in re.finditer(rb"ispe", data[: 2**20]):
        if len(data) >= match.end() + 12:
            width, height = struct.unpack_from(">II", data, match.end() + 4)
            check_size(width, height, limit)


def _by_pillow(data: bytes, kind: str, limit: int) -> Pages:
    image = open_image(data, kind, limit)
    with one_error():
        count = int(getattr(image, "n_frames", 1))

    def picture(number: int) -> Picture:
        del number
        pixels = pixels_of(image)
        info = image.info
        comment = info.get("comment", b"")
        if isinstance(comment, bytes):
            comment = comment.decode("utf-8", "replace")
        dpi = info.get("dpi")
        metadata, turn = companions(
            profile=info.get("icc_profile"),
            exif=info.get("exif"),
            xmp=info.get("xmp"),
            dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
            text=[("Comment", comment)] if comment else (),
        )
        return Picture(upright(pixels, turn), metadata)

    return Pages(count, picture, moving=True)


def write_bmp(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a BMP file; see `files.write_picture`."""
    del quality  # nothing is lost
    options: dict[str, Any] = {}
    if dpi := picture.metadata.get("dpi"):
        options["dpi"] = dpi
    Image.fromarray(picture.pixels).save(file, "BMP", **options)


def write_avif(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes an AVIF file; see `files.write_picture`."""
    names = ("icc_profile", "exif", "xmp")
    beside = {name: picture.metadata[name] for name in names if name in picture.metadata}
    image = Image.fromarray(picture.pixels)
    image.save(file, "AVIF", quality=quality or AVIF_QUALITY, subsampling="4:4:4", **beside)


_PNM = re.compile(rb"(P[2356])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")


def read_pnm(data: bytes, limit: int) -> Pages:
    """A PBM, PGM or PPM file; see `decoding.decode`. Pillow reads those of up to 8 bits."""
    header = _PNM.match(data[:4096])
    if header is None or int(header[4]) < 256:
        return _by_pillow(data, "PPM", limit)
    kind, (width, height, top) = header[1], (int(header[i]) for i in (2, 3, 4))
    check_size(width, height, limit)
    if top > 65535:
        raise InputError(f"not a readable picture (its largest value is {top}, over 65535).")

    def picture(number: int) -> Picture:
        del number
        shape = (height, width, 3) if kind in (b"P3", b"P6") else (height, width)
        count = int(np.prod(shape))
        with one_error():
            if kind in (b"P5", b"P6"):
                values = np.frombuffer(data, ">u2", count, header.end()).astype(np.float64)
            else:
                words = re.sub(rb"#[^\n]*", b"", data[header.end() :]).split()[:count]
                values = np.array([int(word) for word in words], np.float64)
            if len(values) < count or values.max() > top or values.min() < 0:
                raise ValueError("values are missing or too large")
            pixels = np.round(values * (65535 / top)).astype(np.uint16).reshape(shape)
        return Picture(pixels, {} if top == 65535 else {"top": top})

    return Pages(1, picture)


def write_pnm(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a PGM (gray) or PPM file, by its content; see `files.write_picture`."""
    del quality  # nothing is lost
    pixels = picture.pixels
    top = 255 if pixels.dtype == np.uint8 else picture.metadata.get("top", 65535)
    if top not in (255, 65535):
        pixels = np.round(pixels * (top / 65535)).astype(np.uint16)
    kind = "P5" if pixels.ndim == 2 else "P6"
    file.write(f"{kind}\n{pixels.shape[1]} {pixels.shape[0]}\n{top}\n".encode())
    file.write(pixels.astype(">u2" if pixels.dtype == np.uint16 else np.uint8).tobytes())
