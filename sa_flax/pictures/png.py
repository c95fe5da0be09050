"""PNG, with the 16-bit colour that Pillow lacks, and with what stands beside the pixels kept apart.

Pillow gets the chunks that hold pixels and no others, so that a broken text or profile can't spoil
a picture. Its own decoder undoes the filters of 16-bit rows as well, though it has no mode for the
result: it is asked for the high bytes and then for the low ones.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures.companions import companions, raw_profile
from sa_flax.pictures.limits import MOST_COMPANION_BYTES, check_size
from sa_flax.pictures.picture import Pages, Picture, upright
from sa_flax.pictures.pillow import one_error, open_image, pixels_of, with_key

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
# How the values are to be shown, where no profile says it; carried as they are.
_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_XMP = "XML:com.adobe.xmp"
_INCH = 0.0254
_MOST_TEXT = 2**20
_ROWS = 128


class _Chunk(NamedTuple):
    name: bytes
    data: bytes
    check: bytes

    @property
    def whole(self) -> bool:
        return self.check == _check(self.name, self.data)


def _check(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """The chunks up to the end of the picture, or of the file; the last may be cut short."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        name, end = data[place + 4 : place + 8], place + 8 + length
        yield _Chunk(name, data[place + 8 : end], data[end : end + 4])
        if name == b"IEND":
            return
        place = end + 4


def read(data: bytes, limit: int) -> Pages:
    """A PNG file; see `decoding.decode`."""
    chunks = list(_chunks(data))
    if not chunks or chunks[0].name != b"IHDR" or len(chunks[0].data) != 13:
        raise InputError("not a readable picture (it has no header).")
    width, height, bits, colour, *_, interlaced = struct.unpack(">IIBBBBB", chunks[0].data)
    check_size(width, height, limit)
    frames = [c.data for c in chunks if c.name == b"acTL" and len(c.data) == 8]
    count = struct.unpack(">I", frames[0][:4])[0] if frames else 1

    def picture(number: int) -> Picture:
        del number
        if bits == 16 and colour in (0, 2, 4, 6):
            pixels = _pixels16(chunks, width, height, colour, interlaced)
        elif bits < 8 and colour == 0:  # Pillow stretches the gray levels, but not the key's
            opaque = [chunk for chunk in chunks if chunk.name != b"tRNS"]
            pixels = pixels_of(open_image(_pixels_alone(opaque), "PNG", limit))
            top = 2**bits - 1
            key = _key(chunks, 1)
            pixels = with_key(pixels, None if key is None else (key & top) * (255 // top), top=255)
        else:
            pixels = pixels_of(open_image(_pixels_alone(chunks), "PNG", limit))
        metadata, turn = _metadata(chunks)
        return Picture(upright(pixels, turn), metadata)

    return Pages(max(count, 1), picture, moving=True)


def _pixels_alone(chunks: list[_Chunk]) -> bytes:
    parts = [SIGNATURE]
    for chunk in chunks:
        if chunk.name in _PIXELS and (chunk.name != b"tRNS" or chunk.whole):
            parts.append(struct.pack(">I", len(chunk.data)) + chunk.name)
            parts += [chunk.data, chunk.check]
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _pixels16(
    chunks: list[_Chunk], width: int, height: int, colour: int, interlaced: int
) -> np.ndarray:
    if not all(chunk.whole for chunk in chunks if chunk.name in (b"IHDR", b"IDAT")):
        raise InputError("not a readable picture (broken PNG file: a checksum is wrong).")
    rows = b"".join(chunk.data for chunk in chunks if chunk.name == b"IDAT")

    def decode(mode: str, layout: str) -> np.ndarray:
        with one_error():
            image = Image.frombytes(mode, (width, height), rows, "zip", layout, interlaced)
            return np.asarray(image)

    if colour == 0:
        pixels = decode("I;16", "I;16B").astype(np.uint16)
    elif colour == 4:  # two bytes of gray and two of alpha are as many as RGBA has
        pixels = decode("RGBA", "RGBA").copy().view(">u2").astype(np.uint16)
    else:
        mode = "RGB" if colour == 2 else "RGBA"
        pixels = decode(mode, f"{mode};16B").astype(np.uint16)
        np.left_shift(pixels, 8, out=pixels)
        np.bitwise_or(pixels, decode(mode, f"{mode};16L"), out=pixels)
    if colour in (0, 2):
        return with_key(pixels, _key(chunks, 1 if colour == 0 else 3), top=65535)
    return pixels


def _key(chunks: list[_Chunk], channels: int) -> np.ndarray | None:
    """The colour that is transparent, where there is one."""
    key = next((c.data for c in chunks if c.name == b"tRNS" and c.whole), b"")
    return np.frombuffer(key, ">u2").astype(np.uint16) if len(key) == 2 * channels else None


def _metadata(chunks: list[_Chunk]) -> tuple[dict[str, Any], int]:
    profile = exif = xmp = dpi = None
    texts: list[tuple[str, str]] = []
    colour = {}
    room = MOST_COMPANION_BYTES  # for all texts together
    for chunk in chunks:
        if chunk.name in _PIXELS or not chunk.whole:
            continue
        if chunk.name == b"iCCP" and profile is None:
            _, _, packed = chunk.data.partition(b"\0")
            profile = _unpacked(packed[1:], MOST_COMPANION_BYTES) or b""
        elif chunk.name == b"eXIf":
            exif = chunk.data
        elif chunk.name == b"pHYs" and len(chunk.data) == 9 and chunk.data[8] == 1:
            across, down, _ = struct.unpack(">IIB", chunk.data)
            dpi = (across * _INCH, down * _INCH)
        elif chunk.name in _COLOUR:
            colour[chunk.name] = chunk.data
        elif chunk.name in (b"tEXt", b"zTXt", b"iTXt") and room > 0:
            text = _text(chunk)
            room -= _MOST_TEXT if text is None else len(text[1])
            if text is None:
                continue
            name, value = text
            if name == _XMP:
                xmp = value.encode()
            elif name.lower().startswith("raw profile type"):
                if name.lower().endswith((" exif", " app1")) and exif is None:
                    exif = raw_profile(value)
            else:
                texts.append(text)
    metadata, turn = companions(profile=profile, exif=exif, xmp=xmp, dpi=dpi, text=texts)
    if colour:
        metadata["png_colour"] = colour
    return metadata, turn


def _text(chunk: _Chunk) -> tuple[str, str] | None:
    """Name and text; None for what is broken or too long."""
    name, _, rest = chunk.data.partition(b"\0")
    encoding = "latin-1"
    value: bytes | None = rest
    if chunk.name == b"zTXt":
        value = _unpacked(rest[1:], _MOST_TEXT)
    elif chunk.name == b"iTXt":
        encoding = "utf-8"
        parts = rest[2:].split(b"\0", 2)
        value = parts[2] if len(parts) == 3 else None
        if value is not None and rest[:1] == b"\1":
            value = _unpacked(value, _MOST_TEXT)
    if not value or len(value) > _MOST_TEXT:
        return None
    try:
        return name.decode("latin-1"), value.decode(encoding)
    except UnicodeDecodeError:
        return None


def _unpacked(packed: bytes, most: int) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, most + 1)
    except zlib.error:
        return None
    return data if unpacker.eof and len(data) <= most else None


def write(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a PNG file; see `files.write_picture`."""
    del quality  # nothing is lost
    pixels = picture.pixels
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        header, rows = _rows16(pixels)
    else:
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        chunks = list(_chunks(encoded.getvalue()))
        header, rows = chunks[0].data, b"".join(c.data for c in chunks if c.name == b"IDAT")
    file.write(SIGNATURE + _chunk(b"IHDR", header))
    for name, data in _beside(picture.metadata):
        file.write(_chunk(name, data))
    for start in range(0, len(rows), 2**20):
        file.write(_chunk(b"IDAT", rows[start : start + 2**20]))
    file.write(_chunk(b"IEND", b""))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + _check(name, data)


def _beside(metadata: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    if profile := metadata.get("icc_profile"):
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)
    for name, data in metadata.get("png_colour", {}).items():
        if name != b"sRGB" or not profile:  # a picture has one of the two
            yield name, data
    if dpi := metadata.get("dpi"):
        yield b"pHYs", struct.pack(">IIB", *(round(d / _INCH) for d in dpi), 1)
    if exif := metadata.get("exif"):
        yield b"eXIf", exif.removeprefix(b"Exif\0\0")
    if xmp := metadata.get("xmp"):
        yield b"iTXt", _XMP.encode() + bytes(5) + xmp
    for name, value in metadata.get("text", ()):
        key = name.encode("latin-1", "replace")[:79] or b"Comment"
        try:
            yield b"tEXt", key + b"\0" + value.encode("latin-1")
        except UnicodeEncodeError:
            yield b"iTXt", key + bytes(5) + value.encode()


def _rows16(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """Header and compressed rows of (H, W, 2 to 4) uint16, each row filtered as suits it best."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    step = 2 * channels  # bytes from a pixel to its neighbour
    packer = zlib.compressobj(6)
    parts = []
    above = np.zeros((1, width * step), np.uint8)
    for start in range(0, height, _ROWS):
        block = pixels[start : start + _ROWS].astype(">u2").view(np.uint8).reshape(-1, width * step)
        rows = np.concatenate([above, block])
        parts.append(packer.compress(_filtered(rows, step).tobytes()))
        above = block[-1:]
    return header, b"".join([*parts, packer.flush()])


def _filtered(rows: np.ndarray, step: int) -> np.ndarray:
    """The rows but the first, each behind the number of the filter with the smallest differences.

    The five filters of the PNG specification: none, left, up, their mean, and Paeth's choice.
    """
    here, up = rows[1:], rows[:-1]
    left, corner = (np.pad(a, ((0, 0), (step, 0)))[:, :-step] for a in (here, up))
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))
    guesses = (np.zeros_like(here), left, up, ((a + b) // 2).astype(np.uint8), paeth)
    differences = np.stack([here - guess for guess in guesses])  # modulo 256
    cost = np.abs(differences.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = cost.argmin(axis=0)
    chosen = differences[best, np.arange(len(here))]
    return np.concatenate([best[:, None].astype(np.uint8), chosen], axis=1)
