"""Small picture files of every kind, as bytes."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 9, 7


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG file put together by hand: Pillow writes neither 16-bit colour nor false sizes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def deep_tiff() -> bytes:
    """A TIFF file of one pixel with 16 bits in each of three channels."""
    # (tag, type (3: 16 bits, 4: 32 bits), count, value); 134 is where the three numbers 16 stand.
    fields = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 3, 134),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 140),
        (277, 3, 1, 3),
        (278, 3, 1, 1),
        (279, 4, 1, 6),
        (284, 3, 1, 1),
    ]
    entries = b"".join(struct.pack("<HHII", *field) for field in fields)
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)
    head = b"II*\0" + struct.pack("<I", 8) + directory
    assert len(head) == 134
    return head + struct.pack("<HHH", 16, 16, 16) + bytes(6)


@functools.cache
def pictures() -> dict[str, bytes]:
    """Name -> file of 7 x 9 pixels that can be read. Its suffix is that of its format."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    gray, palette = rgb.convert("L"), rgb.quantize(8)
    deep = Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH), np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"  # turn by 90 degrees
    files = {
        "la.png": encoded(gray.convert("LA"), "PNG"),
        "la.tif": encoded(gray.convert("LA"), "TIFF"),
        "rgba.png": encoded(rgb.convert("RGBA"), "PNG"),
        "rgba.webp": encoded(rgb.convert("RGBA"), "WEBP", lossless=True),
        "palette.png": encoded(palette, "PNG"),
        "palette.bmp": encoded(palette, "BMP"),
        "palette.tif": encoded(palette, "TIFF"),
        "colour_key.png": encoded(palette, "PNG", transparency=0),
        "palette_alpha.png": encoded(palette, "PNG", transparency=bytes(range(8))),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "lab.tif": encoded(rgb.convert("LAB"), "TIFF"),
        "bits.png": encoded(gray.convert("1"), "PNG"),
        "bits.bmp": encoded(gray.convert("1"), "BMP"),
        "fax.tif": encoded(gray.convert("1"), "TIFF", compression="group4"),
        "deep.png": encoded(deep, "PNG"),
        "deep.tif": encoded(deep, "TIFF"),
        "profile.png": encoded(rgb, "PNG", icc_profile=b"profile"),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "with_preview.jpg": encoded(rgb, "MPO", save_all=True, append_images=[gray]),
        "still.gif": encoded(palette, "GIF"),
    }
    for kind, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("TIFF", ".tif"), ("WEBP", ".webp")):
        files[f"rgb{suffix}"] = encoded(rgb, kind)
        files[f"upright{suffix}"] = encoded(rgb, kind, exif=exif)
    for kind, suffix in (("BMP", ".bmp"), ("PPM", ".ppm")):
        files[f"rgb{suffix}"] = encoded(rgb, kind)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"{compression}.tif"] = encoded(rgb, "TIFF", compression=compression)
    return files


@functools.cache
def refused() -> dict[str, tuple[bytes, str]]:
    """Name -> (file that is refused, part of the reason)."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    animation = {"save_all": True, "append_images": [rgb.rotate(180)]}
    whole = encoded(rgb, "PNG")
    return {
        "animated.gif": (encoded(rgb, "GIF", **animation), "2 frames"),
        "animated.png": (encoded(rgb, "PNG", **animation), "2 frames"),
        "animated.webp": (encoded(rgb, "WEBP", **animation), "2 frames"),
        "pages.tif": (encoded(rgb, "TIFF", **animation), "2 frames"),
        "deep_colour.png": (png(1, 1, 16, 2, bytes(7)), "16-bit colour"),
        "deep_alpha.png": (png(1, 1, 16, 6, bytes(9)), "16-bit colour"),
        "deep_colour.tif": (deep_tiff(), "16-bit colour"),
        "deep_colour.ppm": (b"P6 1 1 65535\n" + bytes(6), "16-bit colour"),
        "float.tif": (encoded(Image.new("F", (3, 3)), "TIFF"), "floating-point"),
        "wide_integers.tif": (encoded(Image.new("I", (3, 3), 70_000), "TIFF"), "32-bit"),
        "giant.png": (png(60_000, 60_000, 8, 2, b"x"), "million pixels"),
        "giant.bmp": (b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, 40, 60_000, 60_000, 1, 24)
                      + bytes(24), "million pixels"),
        "large_and_empty.png": (png(12_000, 12_000, 8, 0, b"x"), "not a readable picture"),
        "no_size.png": (png(0, 0, 8, 2, b""), "not a readable picture"),
        "empty.png": (b"", "not a readable picture"),
        "text.png": (b"Dear diary, today I saw a picture.\n", "not a readable picture"),
        "script.png": (encoded(rgb, "EPS"), "not a readable picture"),
        "signature.png": (whole[:8], "not a readable picture"),
        "half.png": (whole[: len(whole) // 2], "not a readable picture"),
    }  # fmt: skip
