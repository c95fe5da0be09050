"""Small picture files with everything that may stand beside the pixels, put together by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from sa_flax.pictures import Picture, read_picture, write_picture
from sa_flax.pictures.tags import Field, pack_exif

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 10, 3), np.uint8)
SMOOTH = (np.add.outer(np.arange(32) * 3, np.arange(40) * 2)[..., None] + [0, 20, 40]).astype(
    np.uint8
)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description dc:creator="me"/></x:xmpmeta>'
THUMBNAIL = b"\xff\xd8\xff\xe0" + b"a picture of the noisy original" * 3


def ascii_field(text: str) -> Field:
    return Field(2, text.encode() + b"\0")


def camera_exif(order: str = "<", orientation: int = 1, **inner) -> bytes:
    """EXIF data as a camera writes them, a thumbnail in a second directory among them."""
    first = {
        0x010F: ascii_field("camera"),
        0x0112: Field(3, struct.pack(order + "H", orientation)),
        0x8769: {
            0x829A: Field(5, struct.pack(order + "II", 1, 250)),
            0x927C: Field(7, inner.get("notes", b"maker's notes")),
            0xA002: Field(4, struct.pack(order + "I", 10)),
            0xA003: Field(4, struct.pack(order + "I", 12)),
            0xA005: {1: ascii_field("R98")},
        },
        0x8825: {1: ascii_field("N")},
    }
    whole = bytearray(pack_exif(first, order))
    count = len(first)
    second = len(whole) - 6
    struct.pack_into(order + "I", whole, 6 + 8 + 2 + 12 * count, second)
    place = second + 2 + 24 + 4
    entries = struct.pack(order + "HHHIIHHII", 2, 0x201, 4, 1, place, 0x202, 4, 1, len(THUMBNAIL))
    return bytes(whole) + entries + bytes(4) + THUMBNAIL


def through(tmp_path, content: bytes, suffix: str, to: str = "") -> tuple[Picture, bytes]:
    """The picture that was read, and the file that was written of it."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    picture = read_picture(path)
    write_picture(tmp_path / f"b{to or suffix}", picture)
    return picture, (tmp_path / f"b{to or suffix}").read_bytes()


def saved(array: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def split_png(content: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    place, chunks = 8, []
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return content[:8], chunks[:-1], chunks[-1:]


def join_png(chunks) -> bytes:
    content = b"\x89PNG\r\n\x1a\n"
    for name, data, *check in chunks:
        right = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + (check[0] if check else right)
    return content
