"""TIFF files by other hands: tiles, planes, byte orders, predictors, rare widths; and ours, read by
others."""

import struct
import sys
import zlib

import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures import Picture, read_picture, write_picture
from sa_flax.pictures.tags import Field, pack_directory

RNG = np.random.default_rng(0)


def shorts(*values: int) -> Field:
    return Field(3, struct.pack(f"<{len(values)}H", *values))


def by_hand(packed: bytes, shape: tuple[int, int, int], bits: int, **tags: int) -> bytes:
    """A TIFF file of one strip: the header, the strip, the directory."""
    height, width, channels = shape
    directory = {
        256: shorts(width),
        257: shorts(height),
        258: shorts(*[bits] * channels),
        259: shorts(tags.get("compression", 1)),
        262: shorts(2 if channels == 3 else 1),
        273: Field(4, struct.pack("<I", 8)),
        277: shorts(channels),
        278: shorts(height),
        279: Field(4, struct.pack("<I", len(packed))),
        317: shorts(tags.get("predictor", 1)),
        339: shorts(*[tags.get("kind", 1)] * channels),
    }
    head = b"II*\0" + struct.pack("<I", 8 + len(packed))
    return head + packed + pack_directory(directory, "<", 8 + len(packed))


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
@pytest.mark.parametrize("channels", [1, 3])
def test_numbers_of_nine_to_fifteen_bits_fill_sixteen(tmp_path, bits, channels):
    """They are packed closely, every row from a new byte on."""
    array = RNG.integers(0, 2**bits, (5, 7, channels), np.uint16)
    rows = np.unpackbits(array.astype(">u2").view(np.uint8).reshape(5, -1, 2), axis=2)[..., -bits:]
    packed = np.packbits(rows.reshape(5, -1), axis=1).tobytes()
    (tmp_path / "a.tif").write_bytes(by_hand(packed, array.shape, bits))
    expected = np.round(array * (65535 / (2**bits - 1))).astype(np.uint16)
    read = read_picture(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(read, expected if channels == 3 else expected[..., 0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_predictor_for_floating_point(tmp_path, dtype, channels):
    """Adobe's technical note 3: highest bytes first, as differences to the neighbour's."""
    array = RNG.normal(size=(6, 8, channels)).astype(dtype)
    size = array.dtype.itemsize
    planes = array.astype(f">f{size}").view(np.uint8).reshape(6, 8 * channels, size)
    planes = planes.swapaxes(1, 2).reshape(6, -1, channels)
    steps = np.concatenate([planes[:, :1], np.diff(planes, axis=1)], axis=1)
    packed = zlib.compress(steps.tobytes())
    options = {"compression": 8, "predictor": 3, "kind": 3}
    (tmp_path / "a.tif").write_bytes(by_hand(packed, array.shape, 8 * size, **options))
    read = read_picture(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(read, array if channels == 3 else array[..., 0])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_of_tifffile_are_read(tmp_path, dtype, order, tile, channels):
    array = (RNG.random((35, 41, channels)) * 120).astype(dtype)
    array = array[..., 0] if channels == 1 else array
    for planar in (False, True):
        data = np.moveaxis(array, -1, 0) if planar and channels > 1 else array
        for options in ({}, {"compression": "deflate", "predictor": np.dtype(dtype).kind != "f"}):
            tifffile.imwrite(
                tmp_path / "a.tif",
                data,
                byteorder=order,
                tile=tile,
                photometric="rgb" if channels > 1 else "minisblack",
                planarconfig=("separate" if planar else "contig") if channels > 1 else None,
                **options,
            )
            read = read_picture(tmp_path / "a.tif").pixels
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("compression", ["none", "deflate", "packbits", "lzma", "lzw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "uint64"])
def test_others_read_what_is_written(tmp_path, compression, dtype):
    array = (RNG.random((300, 41, 3)) * 120).astype(dtype)
    write_picture(tmp_path / "a.tif", Picture(array, {"compression": compression}))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, array)
    if compression != "lzw":  # which tifffile unpacks with another package
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), array)
    if dtype == "uint8":
        with Image.open(tmp_path / "a.tif") as image:
            np.testing.assert_array_equal(np.asarray(image), array)
    gray = array[..., 0]
    write_picture(tmp_path / "g.tif", Picture(gray, {"compression": compression}))
    if dtype in ("uint16", "float32"):
        with Image.open(tmp_path / "g.tif") as image:
            np.testing.assert_array_equal(np.asarray(image), gray)


def test_zstd_is_read_and_written_as_deflate(tmp_path):
    if int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow's own libtiff may lack it")
    array = RNG.integers(0, 256, (90, 80, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.tif", compression="zstd")
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, array)
    write_picture(tmp_path / "b.tif", picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), array)


def test_white_is_zero_and_alpha_that_was_multiplied(tmp_path):
    array = RNG.integers(0, 65536, (6, 5), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, 65535 - array)
    both = RNG.integers(0, 65536, (6, 5, 2), np.uint16)
    options = {"photometric": "miniswhite", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", both, extrasamples=["unassalpha"], **options)
    read = read_picture(tmp_path / "a.tif").pixels
    np.testing.assert_array_equal(read[..., 0], 65535 - both[..., 0])
    np.testing.assert_array_equal(read[..., 1], both[..., 1])
    floats = RNG.random((6, 5), np.float32)  # without a white of their own: they stay as they are
    tifffile.imwrite(tmp_path / "a.tif", floats, photometric="miniswhite")
    picture = read_picture(tmp_path / "a.tif")
    write_picture(tmp_path / "b.tif", picture)
    np.testing.assert_array_equal(picture.pixels, floats)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE
        np.testing.assert_array_equal(file.asarray(), floats)
    colour = RNG.integers(0, 65536, (6, 5, 3), np.uint16)
    alpha = RNG.integers(0, 65536, (6, 5, 1), np.uint16)
    alpha[0] = 0
    product = np.round(colour * (alpha / 65535)).astype(np.uint16)
    both = np.concatenate([product, alpha], -1)
    tifffile.imwrite(tmp_path / "b.tif", both, photometric="rgb", extrasamples=["assocalpha"])
    read = read_picture(tmp_path / "b.tif").pixels
    np.testing.assert_array_equal(read[..., 3:], alpha)
    seen = read[..., :3] * (alpha / 65535)
    np.testing.assert_allclose(seen, product, atol=1)


def test_a_fourth_channel_that_is_no_alpha(tmp_path):
    array = RNG.integers(0, 65536, (6, 5, 4), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unspecified"])
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, array)
    write_picture(tmp_path / "b.tif", picture)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert [int(kind) for kind in file.pages[0].extrasamples] == [0]
    write_picture(tmp_path / "c.png", picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "c.png").pixels, array[..., :3])


def test_cmyk_of_sixteen_bits_is_converted_as_that_of_eight(tmp_path):
    ink = RNG.integers(0, 256, (6, 5, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", ink.astype(np.uint16) * 257, photometric="separated")
    read = read_picture(tmp_path / "a.tif").pixels
    expected = np.asarray(Image.fromarray(ink, "CMYK").convert("RGB"))
    np.testing.assert_allclose(read / 257, expected, atol=1.01)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": "complex64"}, "complex64"),
        ({"shape": (3, 32, 32), "volumetric": True, "tile": (2, 16, 16)}, "volume"),
        ({"shape": (6, 5, 7), "planarconfig": "contig"}, "7 channels"),
    ],
)
def test_what_is_no_picture_is_refused_truly(tmp_path, options, reason):
    array = np.zeros(options.pop("shape", (6, 5)), options.pop("dtype", "uint16"))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **options)
    with pytest.raises(InputError, match=rf"a\.tif: .*{reason}"):
        read_picture(tmp_path / "a.tif")


def test_a_compression_that_needs_another_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for bits in (8, 16):
        packed = by_hand(b"?" * 60, (3, 3, 3), bits, compression=34712)  # JPEG 2000
        (tmp_path / "a.tif").write_bytes(packed)
        with pytest.raises(
            InputError, match=r"a\.tif: .*JPEG2000.*(pip install imagecodecs|not a)"
        ):
            read_picture(tmp_path / "a.tif")


def test_cut_short_anywhere(tmp_path):
    for compression in ("none", "deflate", "lzw", "packbits"):
        array = RNG.integers(0, 65536, (40, 30, 3), np.uint16)
        write_picture(tmp_path / "a.tif", Picture(array, {"compression": compression}))
        content = (tmp_path / "a.tif").read_bytes()
        start = struct.unpack_from("<I", content, 4)[0]
        for keep in (8, 100, start // 2, start - 1, start + 5, len(content) - 20):
            (tmp_path / "b.tif").write_bytes(content[:keep])
            with pytest.raises(InputError, match=r"b\.tif: "):
                read_picture(tmp_path / "b.tif")
