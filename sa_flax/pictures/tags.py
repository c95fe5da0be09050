"""Tag directories, of which EXIF data and TIFF files are made: read with care, and written.

What is damaged is left out, field by field. What is carried from one file to the next describes how
the picture was taken and what it shows, never how its pixels were stored, and no copy of them.
"""

import re
import struct
from typing import NamedTuple

from sa_flax.pictures.limits import MOST_COMPANION_BYTES

ORIENTATION = 0x0112
DIRECTORIES = {0x8769, 0x8825, 0xA005}  # EXIF, GPS, interoperability: their value is a directory
_ACROSS, _DOWN = 282, 283
_EXIF, _MAKER_NOTE, _WIDTH, _HEIGHT = 0x8769, 0x927C, 0xA002, 0xA003

# Of a picture's first directory, what is carried: words about it (titles, makers, dates, rights,
# ratings, IPTC), resolution, white point and primaries, print matching, place on the earth.
_CARRIED = {
    *(269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 318, 319, 531, 532),
    *(18246, 18249, 33432, 33723, 40091, 40092, 40093, 40094, 40095, 50341),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),
    *DIRECTORIES,
}
_READ = {*_CARRIED, ORIENTATION, 700, 34675}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_WIDE = {16: 8, 17: 8, 18: 8}
# Of what byte groups must be turned about where the byte order changes.
_TURNED = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}
_JPEG = b"\xff\xd8\xff"
_MOST_FIELDS = 4096
_MOST_XMP = 2**22


class Field(NamedTuple):
    """A tag's value as it is stored: its type (3: 16 bits, 4: 32 bits ...) and its bytes."""

    type: int
    data: bytes


Directory = dict[int, "Field | Directory"]


def read_directory(data: bytes, order: str, offset: int, *, big: bool = False) -> Directory:
    """The tag directory at `offset`, without the fields that are damaged.

    Args:
      data: the file, or the EXIF data from their byte order mark on.
      order: "<" or ">".
      offset: where it starts.
      big: whether it is one of BigTIFF, with offsets of 64 bits.
    """
    return _read(data, order, offset, big, depth=0)


def _read(data: bytes, order: str, offset: int, big: bool, depth: int) -> Directory:
    """`depth` is 0 for a picture's first directory, of which nothing but `_READ` is looked at."""
    room = MOST_COMPANION_BYTES  # for all fields together, which may be the same bytes
    head, entry, word = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    found: Directory = {}
    try:
        (count,) = struct.unpack_from(order + head, data, offset)
    except struct.error:
        return found
    place = offset + struct.calcsize("=" + head)
    inline = struct.calcsize("=" + word)
    step = struct.calcsize("=" + entry) + inline
    for start in range(place, place + min(count, _MOST_FIELDS) * step, step):
        try:
            tag, kind, number = struct.unpack_from(order + entry, data, start)
            where = start + step - inline
            (pointer,) = struct.unpack_from(order + word, data, where)
        except struct.error:
            break
        size = {**_SIZES, **_WIDE}.get(kind, 0) * number
        if not 0 < size <= room or tag in found or (depth == 0 and tag not in _READ):
            continue
        if size > inline:
            where = pointer
        value = data[where : where + size]
        if len(value) != size:
            continue
        room -= size
        if tag not in DIRECTORIES:
            if kind in _SIZES:
                found[tag] = Field(kind, bytes(value))
        elif number == 1 and depth < 2 and kind in (4, 13, 16, 18):
            (below,) = struct.unpack(order + ("Q" if size == 8 else "I"), value)
            inner = _read(data, order, below, big, depth + 1)
            if inner:
                found[tag] = inner
    return found


def pack_directory(directory: Directory, order: str, start: int) -> bytes:
    """A directory with what belongs to it, for the place `start` of a file that is no BigTIFF."""
    head = struct.pack(order + "H", len(directory))
    entries, values = b"", b""
    free = start + 2 + 12 * len(directory) + 4
    for tag, field in sorted(directory.items()):
        if isinstance(field, dict):
            inner, kind, number = pack_directory(field, order, free + len(values)), 4, 1
            slot = struct.pack(order + "I", free + len(values))
            values += inner + bytes(len(inner) % 2)
        else:
            kind, number = field.type, len(field.data) // _SIZES[field.type]
            slot = field.data
            if len(slot) > 4:
                slot = struct.pack(order + "I", free + len(values))
                values += field.data + bytes(len(field.data) % 2)
        entries += struct.pack(order + "HHI", tag, kind, number) + slot.ljust(4, b"\0")
    return head + entries + bytes(4) + values


def in_order(directory: Directory, order: str, wanted: str) -> Directory:
    """The same fields with their bytes in another order."""
    if order == wanted:
        return directory
    return {
        tag: in_order(field, order, wanted)
        if isinstance(field, dict)
        else Field(field.type, _turned(field.data, _TURNED.get(field.type, 1)))
        for tag, field in directory.items()
    }


def _turned(data: bytes, group: int) -> bytes:
    return b"".join(data[i : i + group][::-1] for i in range(0, len(data), group))


def read_exif(exif: bytes) -> tuple[Directory, str]:
    """EXIF data as a directory, and their byte order; empty where they can't be read."""
    exif = re.sub(rb"\A(Exif\0\0)+", b"", exif)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4], "")
    if not order or len(exif) < 8:
        return {}, "<"
    return read_directory(exif, order, struct.unpack(order + "I", exif[4:8])[0]), order


def pack_exif(directory: Directory, order: str) -> bytes:
    """EXIF data; b"" for an empty directory."""
    if not directory:
        return b""
    mark = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return b"Exif\0\0" + mark + pack_directory(directory, order, 8)


def orientation(directory: Directory, order: str) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none."""
    field = directory.get(ORIENTATION)
    if isinstance(field, Field) and len(field.data) >= 2:
        (value,) = struct.unpack_from(order + "H", field.data)
        if 1 <= value <= 8:
            return value
    return 1


def carried(directory: Directory, *, turned: bool = False) -> Directory:
    """What of a picture's first directory is written again, the orientation being applied.

    Args:
      directory: as it was read.
      turned: whether height and width are exchanged by that.
    """
    kept: Directory = {}
    for tag, field in directory.items():
        if tag not in _CARRIED:
            continue
        if not isinstance(field, dict):
            if _JPEG not in field.data:
                kept[tag] = field
        elif inner := _carried_below(field, turned):
            kept[tag] = inner
    if turned and _ACROSS in kept and _DOWN in kept:
        kept[_ACROSS], kept[_DOWN] = kept[_DOWN], kept[_ACROSS]
    return kept


def _carried_below(directory: Directory, turned: bool) -> Directory:
    """Of the EXIF directory, all but makers' notes with a preview in them."""
    kept = {
        tag: field
        for tag, field in directory.items()
        if isinstance(field, dict) or _JPEG not in field.data
    }
    if turned and _WIDTH in kept and _HEIGHT in kept:
        kept[_WIDTH], kept[_HEIGHT] = kept[_HEIGHT], kept[_WIDTH]
    return kept


def without_notes(exif: bytes) -> bytes:
    """EXIF data without the maker's notes, their largest part, for formats with little room."""
    directory, order = read_exif(exif)
    inner = directory.get(_EXIF)
    if isinstance(inner, dict):
        inner.pop(_MAKER_NOTE, None)
    return pack_exif(directory, order)


_XMP_DATA = rb"\s(?:GImage|GDepth|GAudio):Data\s*=\s*(?:\"[^\"]*\"|'[^']*')"
_XMP_ORIENTATION = (
    rb"\stiff:Orientation\s*=\s*[\"']\s*(\d)\s*[\"']",
    rb"<tiff:Orientation\s*>\s*(\d)\s*</tiff:Orientation\s*>",
)


def carried_xmp(xmp: bytes) -> tuple[bytes, int]:
    """An XMP packet without thumbnails and orientation, and the orientation that it names."""
    if len(xmp) > _MOST_XMP:
        return b"", 1
    for name in (b"Thumbnails", b"image"):  # elements of these names hold nothing else
        xmp = _without_elements(xmp, name)
    xmp = re.sub(_XMP_DATA, b"", xmp)
    found = 1
    for pattern in _XMP_ORIENTATION:
        match = re.search(pattern, xmp)
        if match and 1 <= int(match[1]) <= 8:
            found = int(match[1])
        xmp = re.sub(pattern, b"", xmp)
    return xmp, found


def _without_elements(xmp: bytes, name: bytes) -> bytes:
    """Without the XML elements of this name, whatever their prefix; all of it, if one has no end.

    Not by one expression, which a hostile packet could keep searching for minutes.
    """
    kept, place = [], 0
    for opening in re.finditer(rb"<(?:xmp|xapGImg|xmpGImg|xap):" + name + rb"[\s/>]", xmp):
        start = opening.start()
        if start < place:
            continue
        kept.append(xmp[place:start])
        tag_end = xmp.find(b">", start)
        if tag_end < 0:
            return b""
        if xmp[tag_end - 1 : tag_end] == b"/":
            place = tag_end + 1
            continue
        closing = b"</" + opening[0][1:-1] + b">"
        end = xmp.find(closing, tag_end)
        if end < 0:
            return b""
        place = end + len(closing)
    return b"".join([*kept, xmp[place:]])
