"""Picture files in and out: depth, alpha, orientation, profile; broken files; atomic writes."""

import numpy as np
import pytest
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.inference.image_io import Picture, read_picture, write_picture

RNG = np.random.default_rng(0)


def pixels(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize(
    ("array", "suffix"),
    [
        (pixels(6, 5), ".png"),
        (pixels(6, 5, 2), ".png"),
        (pixels(6, 5, 3), ".png"),
        (pixels(6, 5, 4), ".png"),
        (pixels(6, 5, dtype=np.uint16), ".png"),
        (pixels(6, 5, dtype=np.uint16), ".tif"),
        (pixels(6, 5, 4), ".tiff"),
        (pixels(6, 5, 3), ".bmp"),
    ],
)
def test_round_trip(tmp_path, array, suffix):
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(array, {}))
    again = read_picture(path).pixels
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "temporary files left"


def test_jpeg_is_close(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(32))[..., None] * np.ones(3)
    array = (smooth * 2).astype(np.uint8)
    write_picture(tmp_path / "a.jpg", Picture(array, {}))
    np.testing.assert_allclose(read_picture(tmp_path / "a.jpg").pixels.astype(int), array, atol=4)


def test_palette_with_a_transparent_colour_becomes_rgba(tmp_path):
    image = Image.fromarray(pixels(6, 5, 3)).quantize(8)
    image.save(tmp_path / "p.png", transparency=0)
    read = read_picture(tmp_path / "p.png").pixels
    np.testing.assert_array_equal(read, np.asarray(Image.open(tmp_path / "p.png").convert("RGBA")))
    image.save(tmp_path / "q.png")
    assert read_picture(tmp_path / "q.png").pixels.shape == (6, 5, 3)


def test_black_and_white_and_cmyk(tmp_path):
    Image.fromarray(pixels(6, 5) > 127).save(tmp_path / "bw.png")
    assert set(np.unique(read_picture(tmp_path / "bw.png").pixels)) <= {0, 255}
    Image.fromarray(pixels(6, 5, 3)).convert("CMYK").save(tmp_path / "c.jpg")
    assert read_picture(tmp_path / "c.jpg").pixels.shape == (6, 5, 3)


def test_orientation_is_applied_once_and_the_profile_kept(tmp_path):
    array = pixels(6, 5, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    exif[0x010F] = "camera"
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif, icc_profile=b"profile")
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, np.rot90(array, -1))
    write_picture(tmp_path / "b.png", picture)
    with Image.open(tmp_path / "b.png") as again:
        assert again.info["icc_profile"] == b"profile"
        assert again.getexif()[0x010F] == "camera"
        assert 0x0112 not in again.getexif()
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels, picture.pixels)


def deep_colour_png() -> bytes:
    """The header of a PNG with 16 bits in three channels (Pillow can't write one)."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + bytes(6)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def test_files_that_cannot_be_read_are_named(tmp_path):
    Image.fromarray(pixels(60, 50, 3)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    files = {
        "cut.png": (whole[: len(whole) // 2], "not a readable picture"),
        "empty.png": (b"", "not a readable picture"),
        "text.jpg": (b"hello", "not a readable picture"),
        "deep.png": (deep_colour_png(), "16-bit colour"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: .*{message}"):
            read_picture(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_picture(tmp_path / "missing.png")
    with pytest.raises(InputError, match="is a folder"):
        read_picture(tmp_path)
    frames = [Image.fromarray(pixels(6, 5, 3)) for _ in range(2)]
    frames[0].save(tmp_path / "animated.png", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="2 frames"):
        read_picture(tmp_path / "animated.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="floating-point"):
        read_picture(tmp_path / "float.tif")


def test_what_a_format_cannot_hold_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="can't be written"):
        write_picture(path, Picture(pixels(6, 5, 4), {}))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
    with pytest.raises(InputError, match="can't write this kind"):
        write_picture(tmp_path / "a.xyz", Picture(pixels(6, 5), {}))
