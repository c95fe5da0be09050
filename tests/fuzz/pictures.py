"""Small picture files of every kind, as bytes."""

import functools
import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

from sa_flax.pictures import Picture
from sa_flax.pictures.tiff_writer import write as write_tiff

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


# What numbers the files hold whose names begin so; all others hold uint8.
KINDS = {"deep": np.uint16, "float": np.float32, "signed": np.int16}


def deep_png(colour: int) -> bytes:
    channels = {2: 3, 4: 2, 6: 4}[colour]
    values = np.random.default_rng(colour).integers(0, 256, (HEIGHT, WIDTH * channels * 2))
    rows = np.concatenate([np.zeros((HEIGHT, 1)), values], axis=1).astype(np.uint8)
    return png(WIDTH, HEIGHT, 16, colour, rows.tobytes())


def tiff(array: np.ndarray, compression: str) -> bytes:
    """By the writer that is tested elsewhere against other readers."""
    file = io.BytesIO()
    write_tiff(file, Picture(array, {"compression": compression}), None)
    return file.getvalue()


def tifffile_bytes(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    photometric = "rgb" if 3 in array.shape else "minisblack"
    bigtiff = options.pop("bigtiff", False)
    with tifffile.TiffWriter(file, bigtiff=bigtiff) as writer:
        writer.write(array, photometric=photometric, **options)
    return file.getvalue()


def five_channels() -> bytes:
    file = io.BytesIO()
    array = np.zeros((HEIGHT, WIDTH, 5), np.uint16)
    tifffile.imwrite(file, array, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


def giant_tiff() -> bytes:
    """A file of a few bytes that claims many pixels."""
    content = bytearray(tiff(np.zeros((2, 2), np.uint16), "deflate"))
    (start,) = struct.unpack_from("<I", content, 4)
    for entry in range(start + 2, start + 26, 12):  # width and height come first
        content[entry + 8 : entry + 12] = struct.pack("<I", 60_000)
    return bytes(content)


@functools.cache
def paged() -> dict[str, bytes]:
    """Name -> TIFF file of two pages, and with others that are none."""
    rng = np.random.default_rng(0)
    one, two = (
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)) for _ in range(2)
    )
    files = {"plain": encoded(one, "TIFF", save_all=True, append_images=[two])}
    files["compressed"] = encoded(
        one, "TIFF", save_all=True, append_images=[two], compression="tiff_lzw"
    )
    for marked in (True, False):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for array in (np.asarray(one), np.asarray(two)):
                writer.write(array, photometric="rgb", metadata=None)
            small = np.asarray(one)[::3, ::3][:3, :2]
            writer.write(small, photometric="rgb", metadata=None, subfiletype=1 if marked else 0)
        files[f"thumbnail, {'marked' if marked else 'not marked'}"] = file.getvalue()
    deep = io.BytesIO()
    tifffile.imwrite(
        deep, rng.random((2, HEIGHT, WIDTH)).astype(np.float32), photometric="minisblack"
    )
    files["stack"] = deep.getvalue()
    return files


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
        "lossless.webp": encoded(rgb, "WEBP", lossless=True),
        "rgb.avif": encoded(rgb, "AVIF"),
        "text.ppm": b"P3\n# so\n7 9\n255\n" + b" 7" * 189,
        "deep_text.ppm": b"P2\n7 9\n1023\n" + b" 700" * 63,
        "deep.ppm": b"P6 7 9 4095\n" + (np.arange(189) * 21).astype(">u2").tobytes(),
        "deep_alpha.png": deep_png(6),
        "deep_colour.png": deep_png(2),
        "deep_gray_alpha.png": deep_png(4),
        "big.tif": tifffile_bytes(np.asarray(rgb), bigtiff=True),
        "planar.tif": tifffile_bytes(np.moveaxis(np.asarray(rgb), -1, 0), planarconfig="separate"),
        "tiled.tif": tifffile_bytes(np.asarray(rgb), tile=(16, 16)),
    }
    for dtype, name in ((np.uint16, "deep"), (np.float32, "float"), (np.int16, "signed")):
        for shape in ((HEIGHT, WIDTH), (HEIGHT, WIDTH, 3), (HEIGHT, WIDTH, 4)):
            for compression in ("none", "deflate", "lzw"):
                array = (rng.random(shape) * 30_000).astype(dtype)
                files[f"{name}_{len(shape)}{shape[-1]}_{compression}.tif"] = tiff(
                    array, compression
                )
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
        "half_deep.png": (deep_png(2)[:-40], "not a readable picture"),
        "half_deep.tif": (tiff(rng.random((9, 7), np.float32), "deflate")[:200], "not a readable"),
        "short.ppm": (b"P6 3 1 65535\n" + bytes(6), "not a readable picture"),
        "five.tif": (five_channels(), "5 channels"),
        "giant.tif": (giant_tiff(), "million pixels"),
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
