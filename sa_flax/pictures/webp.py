"""WebP: without loss where it came without loss."""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image

from sa_flax.pictures.companions import companions
from sa_flax.pictures.picture import Pages, Picture, upright
from sa_flax.pictures.pillow import open_image, pixels_of

# Of a picture that came with loss, which a file does not say how great; and of one from elsewhere
# where a quality is asked for. libwebp's own 75 costs a denoised picture what denoising gave it.
QUALITY = 92
_PIXELS = (b"VP8X", b"ALPH", b"VP8 ", b"VP8L")
_ALPHA_FLAG = 0x10


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of the file that are whole."""
    place = 12
    while place + 8 <= len(data):
        name, (length,) = data[place : place + 4], struct.unpack_from("<I", data, place + 4)
        if place + 8 + length > len(data):
            return
        yield name, data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def read(data: bytes, limit: int) -> Pages:
    """A WebP file; see `decoding.decode`."""
    chunks = list(_chunks(data))
    frames = sum(name == b"ANMF" for name, _ in chunks)

    def picture(number: int) -> Picture:
        del number
        alone = data if frames else _pixels_alone(data, chunks)
        pixels = pixels_of(open_image(alone, "WEBP", limit))
        found: dict[bytes, bytes] = {}
        for name, content in chunks:
            found.setdefault(name, content)
        metadata, turn = companions(
            profile=found.get(b"ICCP"), exif=found.get(b"EXIF"), xmp=found.get(b"XMP ")
        )
        metadata["lossless"] = b"VP8L" in found
        return Picture(upright(pixels, turn), metadata)

    return Pages(max(frames, 1), picture, moving=True)


def _pixels_alone(data: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    if not any(name in (b"VP8 ", b"VP8L") for name, _ in chunks):
        return data  # damaged; let the decoder say how
    body = b"WEBP"
    for name, content in chunks:
        if name not in _PIXELS:
            continue
        if name == b"VP8X":  # which says what else there is
            content = bytes([content[0] & _ALPHA_FLAG]) + content[1:] if content else content
        body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def write(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a WebP file; see `files.write_picture`.

    Without `quality` (1 to 100), nothing is lost, but of a picture that came with loss, as WebP or
    as JPEG.
    """
    metadata = picture.metadata
    options: dict[str, Any] = {name: metadata.get(name) for name in ("icc_profile", "exif", "xmp")}
    if quality is None and metadata.get("lossless", "jpeg" not in metadata):
        # exact: colours that alpha hides are kept, too.
        options |= {"lossless": True, "exact": True, "quality": 80}
    else:
        options |= {"quality": quality or QUALITY}
    kept = {name: value for name, value in options.items() if value}
    Image.fromarray(picture.pixels).save(file, "WEBP", **kept)
