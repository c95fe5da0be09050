"""Good pictures are read, whatever is wrong with what stands beside their pixels."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from sa_flax.pictures import Picture, read_picture, write_picture
from sa_flax.pictures.tags import carried_xmp
from tests.pictures.files_by_hand import (
    PIXELS,
    PROFILE,
    SMOOTH,
    join_png,
    saved,
    split_png,
    through,
)

BAD_PNG = {
    "broken eXIf": (b"eXIf", b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03garbage"),
    "eXIf that points out": (b"eXIf", b"II*\0\xff\xff\xff\x7f"),
    "empty eXIf": (b"eXIf", b""),
    "profile that is not packed": (b"iCCP", b"name\0\0not zlib"),
    "profile cut short": (b"iCCP", b"name\0\0" + zlib.compress(bytes(5000))[:9]),
    "endless profile": (b"iCCP", b"name\0\0" + zlib.compress(bytes(2**25))),
    "profile without a name": (b"iCCP", b""),
    "endless text": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26))),
    "text not packed": (b"zTXt", b"Comment\0\0nothing"),
    "long text": (b"tEXt", b"Comment\0" + b"x" * (2**21)),
    "text that is none": (b"iTXt", b"Comment\0\0\0\0\0\xff\xfe\xfd"),
    "text cut short": (b"iTXt", b"Comment\0\1"),
    "endless XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**25))),
    "raw profile": (b"tEXt", b"Raw profile type exif\0\nexif\n  12\nzz"),
    "short pHYs": (b"pHYs", b"\0\0"),
    "wild pHYs": (b"pHYs", b"\xff" * 8 + b"\1"),
    "short gAMA": (b"gAMA", b""),
    "wrong checksum": (b"tEXt", b"Comment\0hello", b"\0\0\0\0"),
    "wrong checksum of a profile": (b"iCCP", b"n\0\0" + zlib.compress(PROFILE), b"\0\0\0\0"),
    "unknown": (b"abCd", b"?" * 100),
    "animation that is none": (b"acTL", b"\0"),
}


@pytest.mark.parametrize("name", BAD_PNG)
@pytest.mark.parametrize("deep", [False, True])
def test_png_with_bad_companions(tmp_path, name, deep):
    array = PIXELS.astype(np.uint16) * 257 if deep else PIXELS
    write_picture(tmp_path / "good.png", Picture(array, {"dpi": (300.0, 300.0)}))
    _, chunks, end = split_png((tmp_path / "good.png").read_bytes())
    for bad in (
        [*chunks[:1], BAD_PNG[name], *chunks[1:], *end],
        [*chunks, BAD_PNG[name], *end],
    ):
        if name.endswith("pHYs"):
            bad = [c for c in bad if c[0] != b"pHYs" or c == BAD_PNG[name]]
        picture, _ = through(tmp_path, join_png(bad), ".png")
        np.testing.assert_array_equal(picture.pixels, array)
        assert ("dpi" in picture.metadata) != name.endswith("pHYs")
        again = read_picture(tmp_path / "b.png")
        np.testing.assert_array_equal(again.pixels, array)


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


BAD_JPEG = {
    "broken EXIF": segment(0xE1, b"Exif\0\0\0\x08\0\x02\x01\x12\0\x03garbage"),
    "EXIF that points out": segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "EXIF that points to itself": segment(
        0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\0\0\0\0"
    ),
    "empty EXIF": segment(0xE1, b"Exif\0\0"),
    "empty": segment(0xE1, b""),
    "XMP of nothing": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "profile without its second part": segment(0xE2, b"ICC_PROFILE\0\1\2" + PROFILE[:200]),
    "short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "broken list of pictures": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "broken Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff\xff\xff\xff\xff"),
    "short JFIF": segment(0xE0, b"JFIF\0\1"),
    "comment that is no text": segment(0xFE, b"\xff\xfe\xfd"),
    "large comments": segment(0xFE, b"x" * 60_000) * 3,
    "padding": b"\xff\xff\xff" + segment(0xFE, b"hello"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JPEG)
def test_jpeg_with_bad_companions(tmp_path, name):
    good = saved(SMOOTH, "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(good)))
    content = good[:2] + BAD_JPEG[name] + good[2:]
    picture, _ = through(tmp_path, content, ".jpg")
    np.testing.assert_array_equal(picture.pixels, expected)
    read_picture(tmp_path / "b.jpg")


BAD_WEBP = {
    "broken EXIF": (b"EXIF", b"garbage" * 3),
    "EXIF that points out": (b"EXIF", b"II*\0\xff\xff\xff\x7f"),
    "broken profile": (b"ICCP", b"\0" * 10),
    "XMP of nothing": (b"XMP ", b"\0\0"),
    "unknown": (b"abcd", b"?" * 11),
}


@pytest.mark.parametrize("name", BAD_WEBP)
@pytest.mark.parametrize("first", [False, True])
def test_webp_with_bad_companions(tmp_path, name, first):
    good = saved(PIXELS, "WEBP", lossless=True)
    code, data = BAD_WEBP[name]
    bad = code + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    head = struct.pack("<B3x", 0x2C) + (9).to_bytes(3, "little") + (11).to_bytes(3, "little")
    parts = [bad, good[12:]] if first else [good[12:], bad]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + head + b"".join(parts)
    content = b"RIFF" + struct.pack("<I", len(body)) + body
    picture, _ = through(tmp_path, content, ".webp")
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.webp").pixels, PIXELS)


BAD_TIFF = {
    "EXIF that points out": (34665, 4, 1, 2**31 + 7),
    "EXIF that points to itself": (34665, 4, 1, 8),
    "profile that points out": (34675, 7, 9999, 2**31),
    "profile of words": (34675, 2, 3, 0x616161),
    "XMP of fractions": (700, 5, 2, 8),
    "resolution of nothing": (282, 5, 1, 16),
    "resolution of an unknown kind": (282, 99, 1, 5),
    "previews that point out": (330, 4, 1, 2**32 - 5),
    "description that points out": (270, 2, 5000, 2**31),
    "layers that point out": (37724, 7, 2**30, 12),
    "an unknown tag": (65001, 7, 2**31, 2**31),
    "software of numbers": (305, 3, 2, 9),
    "date that is none": (306, 2, 1, 0),
}


@pytest.mark.parametrize("name", BAD_TIFF)
@pytest.mark.parametrize("kind", ["lzw", "none", "jpeg", "palette", "deep", "big"])
def test_tiff_with_bad_companions(tmp_path, name, kind):
    if kind == "palette":
        file = io.BytesIO()
        Image.fromarray(PIXELS).quantize(8).save(file, "TIFF")
        good = file.getvalue()
    elif kind in ("deep", "big"):
        file = io.BytesIO()
        array = PIXELS.astype(np.uint16) * 257
        with tifffile.TiffWriter(file, bigtiff=kind == "big") as writer:
            writer.write(array, photometric="rgb", metadata=None, software=False)
        good = file.getvalue()
    else:
        names = {"lzw": "tiff_lzw", "none": "raw", "jpeg": "jpeg"}
        good = saved(PIXELS, "TIFF", compression=names[kind])
    (tmp_path / "good.tif").write_bytes(good)
    expected = read_picture(tmp_path / "good.tif").pixels
    picture, _ = through(tmp_path, with_entry(good, BAD_TIFF[name]), ".tif")
    np.testing.assert_array_equal(picture.pixels, expected)
    read_picture(tmp_path / "b.tif")


def with_entry(content: bytes, entry: tuple[int, int, int, int]) -> bytes:
    """The TIFF file with this entry in the directory of its page, in the place of its own."""
    big = content[2] == 43
    word, head, step = ("<Q", "<Q", 20) if big else ("<I", "<H", 12)
    link = 8 if big else 4
    (start,) = struct.unpack_from(word, content, link)
    (count,) = struct.unpack_from(head, content, start)
    first = start + struct.calcsize(head)
    entries = {
        struct.unpack_from("<H", content, place)[0]: content[place : place + step]
        for place in range(first, first + count * step, step)
    }
    tag, kind, number, value = entry
    entries[tag] = struct.pack("<HHQQ" if big else "<HHII", tag, kind, number, value)
    directory = struct.pack(head, len(entries)) + b"".join(entries[t] for t in sorted(entries))
    content += bytes(len(content) % 2)
    where = struct.pack(word, len(content))
    return content[:link] + where + content[link + len(where) :] + directory + bytes(8)


HOSTILE_XMP = {
    "thumbnails without an end": b"<xmp:Thumbnails>" * 100_000,
    "thumbnails that are not closed": b"<xmp:Thumbnails " * 100_000,
    "images": b"<xmpGImg:image>/9j/" * 100_000,
    "data": b" GImage:Data=" * 100_000,
    "orientation": b" tiff:Orientation=" * 100_000,
    "blanks": b" " * 2_000_000,
}


@pytest.mark.parametrize("name", HOSTILE_XMP)
def test_hostile_xmp_takes_no_time(tmp_path, name):
    before = time.process_time()
    carried_xmp(HOSTILE_XMP[name])
    content = saved(PIXELS, "WEBP", xmp=HOSTILE_XMP[name], lossless=True)
    picture, _ = through(tmp_path, content, ".webp")
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert time.process_time() - before < 5


def test_hostile_chunks_and_fields_take_no_memory(tmp_path):
    """Small files in which every one of many parts claims to be large."""
    write_picture(tmp_path / "good.png", Picture(PIXELS, {}))
    _, chunks, end = split_png((tmp_path / "good.png").read_bytes())
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 9)))
    profile = (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**23)))
    many = [*chunks[:1], *[text] * 500, *[profile] * 50, *chunks[1:], *end]
    count = 4000
    entries = b"".join(struct.pack("<HHII", 40_000 + n, 7, 2**20, 0) for n in range(count))
    inner = struct.pack("<H", count) + entries + bytes(4)
    first = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26) + bytes(4)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + first + inner
    tracemalloc.start()
    before = time.process_time()
    picture, _ = through(tmp_path, join_png(many), ".png")
    assert sum(len(value) for _, value in picture.metadata.get("text", ())) <= 2**25
    # The fields point into the file, whose size bounds what is read of each.
    padded = exif + bytes(2**20 + 2**16)
    (tmp_path / "e.png").write_bytes(join_png([*chunks, (b"eXIf", padded[6:]), *end]))
    read_picture(tmp_path / "e.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 250e6
    assert time.process_time() - before < 20
