"""Picture files in and out: every kind there and back; names; broken files; atomic writes."""

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures import (
    Picture,
    decode_pages,
    decode_rgb8,
    encode_pages,
    find_pictures,
    output_suffix,
    read_pages,
    read_picture,
    read_rgb8,
    survey,
    what_cannot_be_written,
    write_pages,
    write_picture,
)
from sa_flax.pictures.formats import FORMATS, by_content, by_suffix

RNG = np.random.default_rng(0)


def pixels(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


ALL = ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
# What comes back as it was, and from which formats.
EXACT = {
    ".png": ("uint8", "uint16"),
    ".tif": ALL,
    ".tiff": ALL,
    ".bmp": ("uint8",),
    ".ppm": ("uint8", "uint16"),
    ".pgm": ("uint8", "uint16"),
    ".pnm": ("uint8", "uint16"),
    ".webp": ("uint8",),
}


def values(shape, dtype) -> np.ndarray:
    """The whole range of the numbers, smallest and largest among them."""
    if np.dtype(dtype).kind == "f":
        return (RNG.normal(size=shape) * 1000).astype(dtype)
    limits = np.iinfo(dtype)
    array = RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    array.flat[:2] = limits.min, limits.max
    return array


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", EXACT)
def test_nothing_is_lost_there_and_back(tmp_path, suffix, channels):
    path = tmp_path / f"a{suffix}"
    for dtype in EXACT[suffix]:
        array = values((33, 29, channels) if channels > 1 else (33, 29), dtype)
        if channels in (2, 4) and not by_suffix(path).alpha:
            assert "no transparency" in what_cannot_be_written(path, array)
            continue
        assert what_cannot_be_written(path, array) is None
        write_picture(path, Picture(array, {}))
        again = read_picture(path).pixels
        if suffix == ".webp" and channels < 3:  # WebP has colours only
            again = again[..., [0, 3] if channels == 2 else 0]
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)
        assert [p.name for p in tmp_path.iterdir()] == [path.name], "temporary files left"


def test_one_channel_may_have_an_axis(tmp_path):
    write_picture(tmp_path / "a.png", Picture(pixels(6, 5, 1), {}))
    assert read_picture(tmp_path / "a.png").pixels.shape == (6, 5)


def test_views_and_other_byte_orders(tmp_path):
    array = values((8, 9, 3), "uint16")
    for view in (array[::2, ::-1], array.swapaxes(0, 1), array.astype(">u2")):
        for suffix in (".png", ".tif", ".ppm"):
            write_picture(tmp_path / f"a{suffix}", Picture(view, {}))
            np.testing.assert_array_equal(read_picture(tmp_path / f"a{suffix}").pixels, view)


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


def test_files_that_cannot_be_read_are_named(tmp_path):
    Image.fromarray(pixels(60, 50, 3)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    files = {
        "cut.png": (whole[: len(whole) // 2], "not a readable picture"),
        "empty.png": (b"", "not a readable picture"),
        "text.jpg": (b"hello", "not a readable picture"),
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
    with pytest.raises(InputError, match="animation of 2 frames"):
        read_picture(tmp_path / "animated.png")
    with pytest.raises(InputError, match="animation of 2 frames"):
        read_pages(tmp_path / "animated.png")


def test_what_a_format_cannot_hold_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="can't be written"):
        write_picture(path, Picture(pixels(6, 5, 4), {}))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]
    with pytest.raises(InputError, match="can't write this kind"):
        write_picture(tmp_path / "a.xyz", Picture(pixels(6, 5), {}))


def test_several_pages_go_into_one_file_and_only_tiff_holds_them(tmp_path):
    pages = [Picture(values((9, 8, 3), "uint16"), {"dpi": (300.0, 300.0)}) for _ in range(3)]
    write_pages(tmp_path / "a.tif", pages)
    again = read_pages(tmp_path / "a.tif")
    for page, other in zip(pages, again, strict=True):
        np.testing.assert_array_equal(page.pixels, other.pixels)
        assert other.metadata["dpi"] == page.metadata["dpi"]
    with pytest.raises(InputError, match="holds 3 pages"):
        read_picture(tmp_path / "a.tif")
    with pytest.raises(InputError, match="PNG files hold one page, this one has 3"):
        write_pages(tmp_path / "a.png", pages)
    assert read_rgb8(tmp_path / "a.tif").shape == (9, 8, 3)
    write_pages(tmp_path / "one.png", pages[:1])
    assert len(read_pages(tmp_path / "one.png")) == 1


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "reason", "help"),
    [
        ("a.jpg", (4, 4, 4), "uint8", "no transparency", "--format png"),
        ("a.JPE", (4, 4), "uint16", "has 16 bits", "--format png"),
        ("a.png", (4, 4), "float32", "floating point", "--format tif"),
        ("a.png", (4, 4), "int8", "8 bits and a sign", "--format tif"),
        ("a.bmp", (4, 4, 2), "uint8", "no transparency", "--format png"),
        ("a.jpg", (70_000, 4), "uint8", "65535 pixels", "--format png"),
        ("a.webp", (4, 17_000, 3), "uint8", "17000 x 4", "--format png"),
        ("a.gif", (4, 4), "uint8", "not written", "--format png"),
        ("a.nef", (4, 4), "uint8", "not written", "--format tif"),
        ("a.pbm", (4, 4), "uint8", "not written", "--format pgm"),
        ("a", (4, 4), "uint8", "no suffix", "--format"),
        ("a.tif", (4, 4, 5), "uint8", "no picture has the shape", ""),
        ("a.tif", (4, 4, 2), "complex64", "complex", ""),
    ],
)
def test_what_cannot_be_written_is_known_before(tmp_path, name, shape, dtype, reason, help):
    array = np.broadcast_to(np.zeros((), dtype), shape)
    answer = what_cannot_be_written(name, array)
    if reason != "complex":
        assert reason in answer
        assert help in answer
    with pytest.raises(InputError, match=rf"{name}: can't (be written|write)"):
        write_picture(tmp_path / name, Picture(array, {}))
    assert not list(tmp_path.iterdir())


def test_names_of_results():
    names = {
        "a.JPG": ".JPG", "a.jfif": ".jfif", "a.jpe": ".jpe", "a.gif": ".png", "a.pnm": ".pnm",
        "a.avif": ".avif", "a.heic": ".heic", "a.dng": ".tif", "a.PBM": ".pgm", "a": ".png",
        "a.apng": ".png", "x.y/a.b.tiff": ".tiff",
    }  # fmt: skip
    assert {name: output_suffix(name) for name in names} == names
    for suffix in {output_suffix(f"a{s}") for entry in FORMATS for s in entry.suffixes}:
        entry = by_suffix(f"a{suffix}")
        if not entry.is_missing:
            assert what_cannot_be_written(f"a{suffix}", pixels(4, 4, 3)) is None


def test_every_format_is_known_by_its_content(tmp_path):
    for entry in FORMATS:
        if not entry.writer or entry.is_missing:
            continue
        path = tmp_path / f"a{entry.suffixes[0]}"
        write_picture(path, Picture(pixels(20, 24, 3), {}))
        assert by_content(path.read_bytes()[:32]) is entry
        assert read_picture(path).pixels.shape == (20, 24, 3)
        path.rename(tmp_path / "a.png")
        assert read_picture(tmp_path / "a.png").pixels.shape == (20, 24, 3)


def test_what_a_folder_holds_and_what_was_left_out(tmp_path, monkeypatch):
    for name in ("a.png", "b.JFIF", "sub/c.gif", "sub/d.pnm", ".hidden.png", ".git/e.png",
                 "notes.txt", "README", "sub/f.psd"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "locked").mkdir()
    (tmp_path / "sub" / "up").symlink_to("..")
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = survey(tmp_path)
    assert found.pictures == find_pictures(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in found.pictures]
    assert names == ["a.png", "b.JFIF", "sub/c.gif", "sub/d.pnm"]
    reasons = {str(path.relative_to(tmp_path)): reason for path, reason in found.left_out}
    assert sorted(reasons) == ["README", "locked", "notes.txt", "sub/f.psd"]
    assert "can't be listed (Permission denied)" in reasons["locked"]
    assert ".psd" in reasons["sub/f.psd"]


@pytest.mark.parametrize(
    ("name", "start", "extra"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heif"),
        ("a.jxl", b"\xff\x0a\0\0\0\0\0\0\0\0\0\0\0", "jxl"),
        ("a.CR2", b"II*\0\x10\0\0\0CR\2\0", "raw"),
    ],
)
def test_a_format_without_its_package_names_the_extra(tmp_path, monkeypatch, name, start, extra):
    path = tmp_path / name
    path.write_bytes(start + bytes(100))
    monkeypatch.setattr("sa_flax.pictures.formats.missing", lambda package: True)
    for read in (read_picture, read_pages, read_rgb8):
        with pytest.raises(InputError, match=rf"{name}: .*pip install 'sa_flax\[{extra}\]'"):
            read(path)
    assert survey(tmp_path).pictures == []
    assert f"sa_flax[{extra}]" in survey(tmp_path).left_out[0].reason
    if extra != "raw":
        assert f"sa_flax[{extra}]" in what_cannot_be_written(path, pixels(4, 4, 3))


@pytest.mark.parametrize("problem", [MemoryError(), OSError(5, "Input/output error"), KeyError(1)])
def test_whatever_goes_wrong_names_the_file(tmp_path, monkeypatch, problem):
    path = tmp_path / "a.png"
    write_picture(path, Picture(pixels(6, 5, 3), {}))

    def fail(*args, **kwargs):
        raise problem

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(InputError, match=r"b\.jpg: can't be written"):
        write_picture(tmp_path / "b.jpg", Picture(pixels(6, 5, 3), {}))
    monkeypatch.setattr(Image.Image, "load", fail)
    for read in (read_picture, read_pages, read_rgb8):
        with pytest.raises(InputError, match=r"a.png: "):
            read(path)
    with pytest.raises(InputError):
        decode_rgb8(path.read_bytes())
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pictures_from_and_to_pipes(tmp_path):
    pages = [Picture(values((9, 8, 3), "uint16"), {"dpi": (300.0, 300.0)}) for _ in range(2)]
    content = encode_pages(pages, ".tif")
    assert output_suffix("-", content) == ".tif"
    for page, again in zip(pages, decode_pages(content), strict=True):
        np.testing.assert_array_equal(page.pixels, again.pixels)
    write_pages(tmp_path / "a.tif", pages)
    assert (tmp_path / "a.tif").read_bytes() == content
    gif = io.BytesIO()
    Image.fromarray(pixels(5, 5)).save(gif, "GIF")
    assert output_suffix("-", gif.getvalue()) == ".png"
    assert output_suffix("-", b"words") == ".png"
    with pytest.raises(InputError, match=r"^not a readable picture"):
        decode_pages(b"words")
    with pytest.raises(InputError, match=r"^can't be written \(PNG files hold one page"):
        encode_pages(pages, ".png")
    with pytest.raises(InputError, match="1 to 100; got 0"):
        encode_pages(pages[:1], ".png", quality=0)
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_picture(pipe, pages[0])
    reader.join(timeout=20)
    np.testing.assert_array_equal(decode_pages(received[0])[0].pixels, pages[0].pixels)


def test_training_sees_eight_bits_and_no_transparency():
    def encoded(array, metadata=None, suffix="png"):
        file = io.BytesIO()
        entry = by_suffix(f"a.{suffix}")
        entry.function(entry.writer)(file, Picture(array, metadata or {}), None)
        return file.getvalue()

    deep = values((9, 8, 3), "uint16")
    expected = np.round(deep / 257)
    for suffix in ("png", "tif", "ppm"):
        np.testing.assert_array_equal(decode_rgb8(encoded(deep, suffix=suffix)), expected)
    clear = np.concatenate([deep, np.zeros((9, 8, 1), np.uint16)], -1)
    assert (decode_rgb8(encoded(clear)) == 255).all()
    infrared = encoded(clear, {"fourth": True}, "tif")
    np.testing.assert_array_equal(decode_rgb8(infrared), expected)
    one = encoded(clear[:1, :1], {"fourth": True}, "tif")
    np.testing.assert_array_equal(decode_rgb8(one), expected[:1, :1])
    for dtype, reason in (("float32", "floating-point"), ("int16", "16-bit signed"),
                          ("uint32", "32-bit integers")):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            decode_rgb8(encoded(values((9, 8), dtype), suffix="tif"))


def test_importing_the_room_is_cheap():
    names = "jax", "tensorflow", "tensorflow_datasets", "grain", "flax", "tifffile", "matplotlib"
    code = (
        "import sys, sa_flax.pictures as p, numpy as np\n"
        "p.find_pictures('.')\n"
        f"print([name for name in {names!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
