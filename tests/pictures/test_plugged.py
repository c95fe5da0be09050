"""HEIC, JPEG XL, raw and AVIF, with the packages that decode them where they are installed."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures import Picture, output_suffix, read_picture, read_rgb8, write_picture
from sa_flax.pictures.plugged import _jxl_size
from tests.pictures.files_by_hand import PROFILE, SMOOTH, THUMBNAIL, camera_exif


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


def test_avif_keeps_what_stands_beside_and_turns_once(tmp_path):
    path = tmp_path / "a.avif"
    exif = camera_exif(orientation=6)
    Image.fromarray(SMOOTH).save(path, exif=exif, icc_profile=PROFILE, quality=95)
    picture = read_picture(path)
    assert mean_difference(picture.pixels, np.rot90(SMOOTH, -1)) < 3
    write_picture(tmp_path / "b.avif", picture)
    again = read_picture(tmp_path / "b.avif")
    assert mean_difference(again.pixels, picture.pixels) < 2
    assert again.metadata["icc_profile"] == PROFILE
    assert THUMBNAIL not in (tmp_path / "b.avif").read_bytes()
    low, high = (tmp_path / f"{quality}.avif" for quality in (10, 95))
    for file in (low, high):
        write_picture(file, picture, quality=int(file.stem))
    assert low.stat().st_size < high.stat().st_size


def test_avif_of_ten_bits_is_not_read_as_eight(tmp_path):
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "AVIF")
    content = bytearray(file.getvalue())
    content[content.index(b"av1C") + 6] |= 0x40  # high_bitdepth
    (tmp_path / "a.avif").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.avif: has 10 or 12 bits"):
        read_picture(tmp_path / "a.avif")


def test_avif_that_claims_any_size_is_not_decoded(tmp_path):
    content = bytearray()
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "AVIF")
    content[:] = file.getvalue()
    place = content.index(b"ispe") + 8
    struct.pack_into(">II", content, place, 60_000, 60_000)
    (tmp_path / "a.avif").write_bytes(content)
    with pytest.raises(InputError, match=r"a.avif: .*60000 x 60000.*million pixels"):
        read_picture(tmp_path / "a.avif")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic(tmp_path, channels):
    pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    array = SMOOTH[..., 0] if channels == 1 else SMOOTH
    if channels == 4:
        array = np.concatenate([SMOOTH, SMOOTH[..., :1]], -1)
    write_picture(path, Picture(array, {"exif": camera_exif(), "icc_profile": PROFILE}))
    picture = read_picture(path)
    assert mean_difference(picture.pixels, array) < 3
    assert picture.metadata["icc_profile"] == PROFILE
    assert b"camera" in picture.metadata["exif"]
    assert output_suffix(path) == ".heic"
    assert read_rgb8(path).shape == SMOOTH.shape


@pytest.mark.parametrize("bits", [10, 12])
def test_heic_of_ten_and_twelve_bits(tmp_path, bits):
    pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    array = (SMOOTH.astype(np.uint16) << 8) + 99
    write_picture(path, Picture(array, {"bits": bits}), quality=100)
    picture = read_picture(path)
    assert picture.pixels.dtype == np.uint16
    assert picture.metadata["bits"] == bits
    assert mean_difference(picture.pixels, array) < 300
    levels = np.unique(picture.pixels)
    np.testing.assert_allclose(
        levels % (65535 / (2**bits - 1)) % (65535 / (2**bits - 1)), 0, atol=65
    )
    assert np.abs(read_rgb8(path).astype(int) - SMOOTH).max() <= 4


def test_heic_is_turned_once(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    encoded = heif.from_pillow(Image.fromarray(SMOOTH))
    encoded.save(path, exif=camera_exif(orientation=6), quality=95)
    picture = read_picture(path)
    write_picture(tmp_path / "b.heic", picture)
    again = read_picture(tmp_path / "b.heic")
    assert mean_difference(again.pixels, picture.pixels) < 3


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl(tmp_path, channels):
    pytest.importorskip("pillow_jxl")
    array = np.concatenate([SMOOTH, SMOOTH[..., :1]], -1)[..., : channels if channels != 2 else 2]
    array = array[..., 0] if channels == 1 else array
    path = tmp_path / "a.jxl"
    write_picture(path, Picture(array, {"exif": camera_exif()}), quality=100)
    np.testing.assert_array_equal(read_picture(path).pixels, array)
    write_picture(path, Picture(array, {}))
    assert mean_difference(read_picture(path).pixels, array) < 3
    with pytest.raises(InputError, match="not sRGB; use --format png"):
        write_picture(path, Picture(array, {"icc_profile": b"Adobe RGB (1998)"}))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (640, 480), (1000, 3), (300, 300), (200, 8)])
def test_the_size_of_jpeg_xl_is_known_from_its_header(size):
    pytest.importorskip("pillow_jxl")
    import pillow_jxl  # noqa: F401

    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JXL")
    assert _jxl_size(file.getvalue()) == size


def raw_file() -> bytes:
    """A DNG file of 48 x 64 pixels, brighter to the right."""
    mosaic = np.broadcast_to(2000 + 300 * np.arange(64), (48, 64)).astype(np.uint16)
    unit = [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]
    tags = [
        (33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True),
        (50706, 1, 4, bytes([1, 4, 0, 0]), True), (50707, 1, 4, bytes([1, 1, 0, 0]), True),
        (50708, 2, 0, "made by hand", True), (271, 2, 0, "hand", True), (272, 2, 0, "made", True),
        (50721, 10, 9, unit, True), (50728, 5, 3, (1, 1, 1, 1, 1, 1), True),
        (50778, 3, 1, 21, True), (50714, 3, 1, 0, True), (50717, 4, 1, 65535, True),
    ]  # fmt: skip
    file = io.BytesIO()
    tifffile.imwrite(file, mosaic, photometric=32803, metadata=None, extratags=tags, software=False)
    return file.getvalue()


def test_raw(tmp_path):
    pytest.importorskip("rawpy")
    path = tmp_path / "a.dng"
    path.write_bytes(raw_file())
    picture = read_picture(path)
    assert picture.pixels.shape == (48, 64, 3)
    assert picture.pixels.dtype == np.uint16
    row = picture.pixels[20, 4:-4].astype(int)
    assert (np.diff(row[::4], axis=0) > 0).all()
    assert np.ptp(row[20]) < 100, "it is gray"
    assert b"hand" in picture.metadata["exif"]
    write_picture((tmp_path / "a").with_suffix(output_suffix(path)), picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, picture.pixels)


def test_raw_data_under_another_name(tmp_path):
    (tmp_path / "a.tif").write_bytes(raw_file())
    with pytest.raises(InputError, match=r"raw data; with the suffix \.dng"):
        read_picture(tmp_path / "a.tif")
