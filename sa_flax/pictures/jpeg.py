"""JPEG: read for pixels alone, written at the quality it came with."""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, JpegImagePlugin

from sa_flax.pictures.companions import companions
from sa_flax.pictures.picture import Pages, Picture, upright
from sa_flax.pictures.pillow import open_image, pixels_of
from sa_flax.pictures.tags import without_notes

_EXIF, _XMP, _PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_COMMENT = 0xFE
_MOST_IN_A_SEGMENT = 65533
# Of a picture that has no quality of its own: hardly to be told from the original.
QUALITY = 95


class _Segment(NamedTuple):
    marker: int
    start: int
    data: bytes


def _segments(data: bytes) -> Iterator[_Segment]:
    """What stands before the first scan; ends early where the file is damaged."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        end = place + 2 + length
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or length < 2 or end > len(data):
            return
        yield _Segment(marker, place, data[place + 4 : end])
        if marker == 0xDA:
            return
        place = end


def read(data: bytes, limit: int) -> Pages:
    """A JPEG file; see `decoding.decode`. Pictures behind the first are its previews."""
    segments = list(_segments(data))

    def picture(number: int) -> Picture:
        del number
        image = open_image(_pixels_alone(data, segments), "JPEG", limit)
        pixels = pixels_of(image)
        metadata, turn = _metadata(segments)
        if image.mode not in ("L", "RGB"):  # it describes colours that were converted
            metadata.pop("icc_profile", None)
        metadata["jpeg"] = {
            "qtables": getattr(image, "quantization", {}),
            # An arrangement that Pillow has no name for (-1), CMYK's among them, has the best's.
            "subsampling": max(JpegImagePlugin.get_sampling(image), 0),
            "progressive": bool(image.info.get("progressive")),
        }
        return Picture(upright(pixels, turn), metadata)

    return Pages(1, picture)


def _pixels_alone(data: bytes, segments: list[_Segment]) -> bytes:
    if not segments or segments[-1].marker != 0xDA:
        return data  # damaged; let the decoder say how
    parts = [data[:2]]
    for segment in segments[:-1]:
        # Of the application's segments, Adobe's (14) says how colours are stored.
        application = 0xE0 <= segment.marker <= 0xEF
        if segment.marker != _COMMENT and (not application or segment.marker == 0xEE):
            head = struct.pack(">BBH", 0xFF, segment.marker, len(segment.data) + 2)
            parts.append(head + segment.data)
    return b"".join([*parts, data[segments[-1].start :]])


def _metadata(segments: list[_Segment]) -> tuple[dict[str, Any], int]:
    exif = xmp = dpi = None
    text: list[tuple[str, str]] = []
    profile: dict[int, bytes] = {}
    for marker, _, data in segments:
        if marker == 0xE0 and data[:5] == b"JFIF\0" and len(data) >= 12 and data[7] in (1, 2):
            per_inch = 1 if data[7] == 1 else 2.54
            across, down = struct.unpack_from(">HH", data, 8)
            dpi = (across * per_inch, down * per_inch)
        elif marker == 0xE1 and data.startswith(_EXIF):
            exif = exif or data
        elif marker == 0xE1 and data.startswith(_XMP):
            xmp = xmp or data[len(_XMP) :]
        elif marker == 0xE2 and data.startswith(_PROFILE) and len(data) > 14:
            profile[data[12]] = data[14:]
        elif marker == _COMMENT and data:
            try:
                comment = data.decode("utf-8")
            except UnicodeDecodeError:
                comment = data.decode("latin-1")
            text.append(("Comment", comment.rstrip("\0")))
    whole = b"".join(profile[number] for number in sorted(profile))
    if sorted(profile) != list(range(1, len(profile) + 1)):
        whole = b""  # a part is missing
    return companions(profile=whole, exif=exif, xmp=xmp, dpi=dpi, text=text)


def write(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a JPEG file; see `files.write_picture`.

    Without `quality` (1 to 100), one that came as JPEG is written with its own quantisation tables
    and subsampling, any other at quality 95 without subsampling.
    """
    metadata = picture.metadata
    options: dict[str, Any] = {"subsampling": 0, "optimize": True}
    if source := metadata.get("jpeg"):
        options |= {"progressive": source["progressive"], "subsampling": source["subsampling"]}
        if quality is None:
            options["qtables"] = source["qtables"] or None
    if not options.get("qtables"):  # given both, Pillow would scale the tables by the quality
        options["quality"] = quality or QUALITY
    exif, xmp = metadata.get("exif", b""), metadata.get("xmp", b"")
    if len(exif) > _MOST_IN_A_SEGMENT:
        exif = without_notes(exif)
    if len(exif) <= _MOST_IN_A_SEGMENT:
        options["exif"] = exif
    if len(xmp) + len(_XMP) <= _MOST_IN_A_SEGMENT:
        options["xmp"] = xmp
    if dpi := metadata.get("dpi"):
        options["dpi"] = tuple(min(round(d), 65535) for d in dpi)
    comments = [value for name, value in metadata.get("text", ()) if name == "Comment"]
    if comments and len(comment := "\n".join(comments).encode()) <= _MOST_IN_A_SEGMENT:
        options["comment"] = comment
    profile = metadata.get("icc_profile")
    Image.fromarray(picture.pixels).save(file, "JPEG", icc_profile=profile, **options)
