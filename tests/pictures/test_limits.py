"""Limits on what a file may claim: kept before anything is decoded, raised on request."""

import os
import resource
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures import Picture, decode_rgb8, read_pages, read_picture, read_rgb8, write_pages
from sa_flax.pictures.limits import MOST_PIXELS, VARIABLE, most_pixels
from tests.pictures.files_by_hand import join_png

SUFFIXES = [".png", ".jpg", ".tif", ".webp", ".bmp", ".pgm", ".avif"]


@pytest.fixture
def restore_pillow(monkeypatch):
    """Pillow's own limit, which a raised one raises, is for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_lower_limit_holds_for_every_format(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    write_pages(path, [Picture(np.zeros((30, 40), np.uint8), {})])
    assert read_picture(path, most_pixels=1200).pixels.shape[:2] == (30, 40)
    for read in (read_picture, read_pages, read_rgb8):
        with pytest.raises(InputError, match=rf"a{suffix}: claims .*40 x 30 .*{VARIABLE}=1200"):
            read(path, most_pixels=1199)
    with pytest.raises(InputError, match="40 x 30"):
        decode_rgb8(path.read_bytes(), most_pixels=1199)
    monkeypatch.setenv(VARIABLE, "1199")
    with pytest.raises(InputError, match="40 x 30"):
        read_picture(path)
    assert read_picture(path, most_pixels=1200).pixels.shape[:2] == (30, 40)
    monkeypatch.setenv(VARIABLE, "1200")
    read_picture(path)


def test_pages_count_together(tmp_path):
    page = Picture(np.zeros((30, 40), np.uint8), {})
    write_pages(tmp_path / "a.tif", [page] * 3)
    assert len(read_pages(tmp_path / "a.tif", most_pixels=3600)) == 3
    with pytest.raises(InputError, match="3 pages of 40 x 30"):
        read_pages(tmp_path / "a.tif", most_pixels=3599)
    # Training takes the first, whatever there is besides.
    assert read_rgb8(tmp_path / "a.tif", most_pixels=1200).shape == (30, 40, 3)


def test_a_raised_limit_reaches_pillow(tmp_path, monkeypatch, restore_pillow):
    path = tmp_path / "a.bmp"
    write_pages(path, [Picture(np.zeros((300, 400), np.uint8), {})])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_picture(path, most_pixels=120_000).pixels.shape == (300, 400)


@pytest.mark.parametrize("value", ["many", "-5", "0", "1e6", " "])
def test_a_limit_that_is_none_is_named(tmp_path, monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InputError, match=r"SA_FLAX_MOST_PIXELS|at least one pixel"):
        most_pixels()
    monkeypatch.delenv(VARIABLE)
    assert most_pixels() == MOST_PIXELS


def test_a_large_claim_costs_no_memory(tmp_path):
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 16, 6, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(join_png([(b"IHDR", header), (b"IEND", b"")]))
    huge = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 0)
    (tmp_path / "b.png").write_bytes(join_png([(b"IHDR", huge), (b"IEND", b"")]))
    tracemalloc.start()
    for name in ("a.png", "b.png"):
        with pytest.raises(InputError):
            read_picture(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("name", "gigabytes", "reason"),
    [
        ("a.tif", 8, r"is 8\.6 GB large; a picture of 179 million pixels takes 3\.1 GB"),
        ("a.png", 1, r"is 1\.1 GB large; a picture of 0\.0012 million pixels takes 0\.3 GB"),
        ("a.jpg", 1, r"is 1\.1 GB large; a picture of 0\.0012 million pixels"),
        ("a.bmp", 1, r"is 1\.1 GB large"),
        ("wide.png", 1, r"claims to have more than 179 million pixels"),
        ("words.png", 2, r"not a readable picture \(none of PNG"),
    ],
)
def test_a_large_sparse_file_is_refused_by_its_header(tmp_path, name, gigabytes, reason):
    path = tmp_path / name
    if name in ("a.png", "a.jpg", "a.bmp"):
        write_pages(path, [Picture(np.zeros((30, 40), np.uint8), {})])
    else:
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
        starts = {
            "a.tif": b"II*\0\x08\0\0\0",
            "wide.png": join_png([(b"IHDR", header), (b"IDAT", b"")]),
            "words.png": b"words",
        }
        path.write_bytes(starts[name])
    os.truncate(path, gigabytes * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=rf"{name}: {reason}"):
        read_picture(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
