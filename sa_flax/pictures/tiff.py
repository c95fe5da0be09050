"""TIFF and BigTIFF: every depth and kind of number, page by page.

tifffile reads the structure and most pixels. What it leaves to a package of its own (LZW and
others) Pillow's libtiff unpacks, strip by strip; palettes, JPEG, fax and the like Pillow decodes
whole, from a directory without anything that stands beside the pixels.
"""

import io
import logging
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures.companions import companions
from sa_flax.pictures.limits import check_size
from sa_flax.pictures.picture import Pages, Picture, upright
from sa_flax.pictures.pillow import one_error, open_image, pixels_of
from sa_flax.pictures.tags import Directory, Field, pack_directory, read_directory

# How pixels are stored: what Pillow is given of a directory.
_STORAGE = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_RAW = (32803, 34892)
_BY_TIFFFILE = {1, 8, 32773, 32946, 34925}
_BY_PILLOW = {5, 50000}  # LZW, zstd
_WHOLE_BY_PILLOW = {2, 3, 4, 6, 7}
_NAMES = {1: "none", 8: "deflate", 32946: "deflate", 32773: "packbits", 34925: "lzma", 5: "lzw"}
# A page like the first but of at most so many pixels a side is its thumbnail, said or not.
_THUMBNAIL = 256


def read(data: bytes, limit: int) -> Pages:
    """A TIFF file; see `decoding.decode`. Thumbnails, reduced copies and masks are left out."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # it logs what is odd
    with one_error():
        file = tifffile.TiffFile(io.BytesIO(data))
        every = [page for page in file.pages if isinstance(page, tifffile.TiffPage)]
        pages = [page for page in every if not page.subfiletype & 0b101] or every[:1]
        pages = _without_thumbnails(pages)
        described = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
    if not pages:
        raise InputError("not a readable picture (it holds no page).")
    if int(described) > len(every):
        raise InputError(
            f"is an ImageJ stack of {described} pictures in one page; save it page by page."
        )
    for page in pages:
        check_size(page.imagewidth, page.imagelength, limit)
    largest = max(pages, key=lambda page: page.imagewidth * page.imagelength)

    def picture(number: int) -> Picture:
        return _picture(data, pages[number], limit)

    return Pages(len(pages), picture, size=(largest.imagewidth, largest.imagelength))


def _without_thumbnails(pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    if len(pages) < 2:
        return pages
    largest = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    width, height = largest.imagewidth, largest.imagelength

    def is_thumbnail(page: tifffile.TiffPage) -> bool:
        across, down = page.imagewidth, page.imagelength
        alike = abs(across * height - down * width) <= max(width, height)  # within rounding
        return alike and 2 * across <= width and max(across, down) <= _THUMBNAIL

    return [page for page in pages if not is_thumbnail(page)]


def _picture(data: bytes, page: tifffile.TiffPage, limit: int) -> Picture:
    order, big = page.parent.byteorder, page.parent.is_bigtiff
    directory = read_directory(data, order, page.offset, big=big)
    values = {
        tag: field.data for tag in (700, 34675) if isinstance(field := directory.get(tag), Field)
    }
    metadata, turn = companions(
        profile=values.get(34675),
        xmp=values.get(700),
        directory=(_descriptive(directory), order),
        dpi=_resolution(directory, order),
    )
    pixels, own = _pixels(data, page, limit)
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, 3, 6):
        metadata.pop("icc_profile", None)  # it describes colours that were converted
    # A page that came with loss, as JPEG, is not to lose more: TIFF is what people keep.
    metadata["compression"] = _NAMES.get(page.compression, "deflate")
    return Picture(upright(pixels, turn), metadata | own)


def _descriptive(directory: Directory) -> Directory:
    """Without a description of the array by tifffile, which would be untrue of what is written."""
    text = directory.get(270)
    if isinstance(text, Field) and text.data.startswith(b'{"shape":'):
        return {tag: field for tag, field in directory.items() if tag != 270}
    return directory


def _resolution(directory: Directory, order: str) -> tuple[float, float] | None:
    try:
        unit = directory[296].data if 296 in directory else struct.pack(order + "H", 2)  # type: ignore[union-attr]
        pairs = [struct.unpack(order + "II", directory[tag].data) for tag in (282, 283)]  # type: ignore[union-attr]
        per_inch = {2: 1.0, 3: 2.54}[struct.unpack(order + "H", unit[:2])[0]]
        across, down = (per_inch * top / bottom for top, bottom in pairs)
    except (KeyError, AttributeError, struct.error, ZeroDivisionError):
        return None
    return across, down


def _pixels(data: bytes, page: tifffile.TiffPage, limit: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The page's pixels, and what is noted of how they were stored."""
    known = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
    deep = page.bitspersample in (*range(9, 17), 32, 64)
    if page.photometric in _RAW:
        raise InputError("holds a camera's raw data; with the suffix .dng it can be read.")
    ours = (known and (page.bitspersample == 8 or deep)) or (page.photometric == _CMYK and deep)
    if ours and page.compression in _BY_TIFFFILE | _BY_PILLOW:
        with one_error():
            array = _array(data, page)
        pixels, own = _arranged(array, page)
        return (
            _widened(pixels, page.bitspersample) if 8 < page.bitspersample < 16 else pixels
        ), own
    rare = page.compression not in _BY_TIFFFILE | _BY_PILLOW | _WHOLE_BY_PILLOW
    if rare or page.bitspersample > 16 or (page.samplesperpixel > 1 and page.bitspersample > 8):
        if known or page.photometric == _CMYK:
            with one_error():
                array = _by_other_packages(page)
            return _arranged(array, page)
        raise InputError(
            f"has {page.bitspersample} bits in colours of the kind {_name(page.photometric)} and "
            f"the compression {_name(page.compression)}; save it as RGB."
        )
    return pixels_of(open_image(_page_alone(data, page), "TIFF", limit)), {}


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))


def _by_other_packages(page: tifffile.TiffPage) -> np.ndarray:
    try:
        return page.asarray(maxworkers=1, squeeze=False)
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            raise InputError(
                f"its compression, {_name(page.compression)}, needs the package imagecodecs: pip "
                "install imagecodecs."
            ) from error
        raise


def _array(data: bytes, page: tifffile.TiffPage) -> np.ndarray:
    """(samples apart, depth, H, W, samples together): as tifffile has it.

    Raises:
      ValueError: where strips are missing or too short.
    """
    offsets, counts = page.dataoffsets, page.databytecounts
    wanted = int(np.prod(page.chunked))
    if len(offsets) < wanted or any(
        not count or offset + count > len(data)
        for offset, count in zip(offsets[:wanted], counts[:wanted], strict=False)
    ):
        raise ValueError("it is cut short")
    odd = page.bitspersample % 8 != 0
    if page.dtype is None or (odd and (page.predictor != 1 or page.dtype != np.uint16)):
        raise ValueError(f"numbers of {page.bitspersample} bits, stored in a rare way")
    if page.compression in _BY_TIFFFILE and page.predictor != 3 and not odd:
        return page.asarray(maxworkers=1, squeeze=False)
    segments = [data[offsets[i] : offsets[i] + counts[i]] for i in range(wanted)]
    return _unwrapped(segments, page)


def _unwrapped(segments: list[bytes], page: tifffile.TiffPage) -> np.ndarray:
    """`_array` for what tifffile can't do alone: it is told that the page is stored in a way that
    it knows, and gets its strips or tiles so."""
    compression, predictor, bits = page.compression, page.predictor, page.bitspersample
    page.compression = tifffile.COMPRESSION.ADOBE_DEFLATE
    if predictor == 3:
        page.predictor = tifffile.PREDICTOR.NONE
    if bits % 8:
        page.bitspersample = 16
    out = np.empty(page.shaped, page.dtype)
    try:
        for index, segment in enumerate(segments):
            _, (apart, depth, top, left, _), shape = page.decode(None, index)
            high = shape[1] if page.is_tiled else min(shape[1], out.shape[2] - top)
            rows, width, samples = shape[0] * high, shape[2], shape[3]
            length = rows * -(-width * samples * bits // 8)
            unpacked = _unpack(segment, compression, length)[:length]
            if len(unpacked) < length:
                raise ValueError("it is cut short")
            if predictor == 3:
                unpacked = _floats(unpacked, page, rows, width, samples)
            elif bits % 8:
                unpacked = _whole_numbers(unpacked, page, bits, rows)
            block = np.asarray(page.decode(zlib.compress(unpacked, 0), index)[0])
            there = out[apart, depth : depth + 1, top : top + block.shape[1]]
            there = there[:, :, left : left + block.shape[2]]
            there[:] = block[:, : there.shape[1], : there.shape[2]]
    finally:
        page.compression, page.predictor, page.bitspersample = compression, predictor, bits
    return out


def _unpack(packed: bytes, compression: int, length: int) -> bytes:
    """`length` bytes that were packed as TIFF strips are; by Pillow, as one long row of gray."""
    if compression == 1:
        return packed
    if compression in _BY_TIFFFILE:
        return tifffile.TIFF.DECOMPRESSORS[compression](packed)
    head = 8
    entries: Directory = {
        256: Field(4, struct.pack("<I", length)),
        257: Field(3, struct.pack("<H", 1)),
        258: Field(3, struct.pack("<H", 8)),
        259: Field(3, struct.pack("<H", compression)),
        262: Field(3, struct.pack("<H", 1)),
        273: Field(4, bytes(4)),
        277: Field(3, struct.pack("<H", 1)),
        278: Field(4, struct.pack("<I", 1)),
        279: Field(4, struct.pack("<I", len(packed))),
    }
    start = head + len(pack_directory(entries, "<", head))
    entries[273] = Field(4, struct.pack("<I", start))
    file = b"II*\0" + struct.pack("<I", head) + pack_directory(entries, "<", head) + packed
    with Image.open(io.BytesIO(file), formats=("TIFF",)) as image:
        return image.tobytes()


def _whole_numbers(data: bytes, page: tifffile.TiffPage, bits: int, rows: int) -> bytes:
    """Numbers of 9 to 15 bits, packed closely in every row, as numbers of 16."""
    every = np.unpackbits(np.frombuffer(data, np.uint8).reshape(rows, -1), axis=1)
    numbers = every[:, : every.shape[1] // bits * bits].reshape(rows, -1, bits)
    if page.is_tiled or every.shape[1] % bits >= 8:
        raise ValueError(f"numbers of {bits} bits, stored in a rare way")
    values = numbers.astype(np.uint16) @ (1 << np.arange(bits, dtype=np.uint16)[::-1])
    return values.astype(page.parent.byteorder + "u2").tobytes()


def _floats(data: bytes, page: tifffile.TiffPage, rows: int, width: int, samples: int) -> bytes:
    """Undoes the predictor for floating point (Adobe's technical note 3 on TIFF): in every row the
    highest bytes of all numbers come first, then the next, each as a difference to its neighbour.
    """
    size = page.bitspersample // 8
    steps = np.frombuffer(data, np.uint8).reshape(rows, -1, samples)
    planes = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, size, width * samples)
    numbers = planes if page.parent.byteorder == ">" else planes[:, ::-1]
    return np.ascontiguousarray(numbers.swapaxes(1, 2)).tobytes()


def _arranged(array: np.ndarray, page: tifffile.TiffPage) -> tuple[np.ndarray, dict[str, Any]]:
    """As `Picture` has it, from tifffile's five axes."""
    apart, depth, _, _, together = array.shape
    if depth != 1 or (apart > 1 and together > 1):
        raise InputError(f"is a volume {depth} deep; save it slice by slice.")
    pixels = array[0, 0] if apart == 1 else np.moveaxis(array[:, 0, ..., 0], 0, -1)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.dtype.kind not in "iuf":
        raise InputError(
            f"holds numbers of the kind {pixels.dtype}; save it as integers or floats."
        )
    if page.photometric == _CMYK:
        pixels = _without_black(pixels)
    channels = pixels.shape[-1]
    if channels > 4:
        raise InputError(f"has {channels} channels; pictures have 1 to 4.")
    extra = [int(kind) for kind in page.extrasamples]
    own: dict[str, Any] = {}
    if page.photometric == _WHITE_IS_ZERO:
        if pixels.dtype.kind == "u":
            gray = np.iinfo(pixels.dtype).max - pixels[..., :1]
            pixels = np.concatenate([gray, pixels[..., 1:]], axis=-1)
        else:  # which have no white of their own: written as they came
            own["white_is_zero"] = True
    if channels in (2, 4):
        if extra[:1] == [1]:
            pixels = _unassociated(pixels)
        elif extra[:1] == [0]:
            own["fourth"] = True  # something, but not said to be alpha
    return (pixels[..., 0] if channels == 1 else pixels), own


def _unassociated(pixels: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by alpha, divided by it again; nothing is left under alpha 0."""
    colours, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:].astype(np.float64)
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1.0
    colours = np.divide(colours * top, alpha, out=np.zeros_like(colours), where=alpha > 0)
    if pixels.dtype.kind in "iu":
        colours = np.clip(np.round(colours), 0, top)
    return np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], axis=-1)


def _without_black(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) CMYK as (H, W, 3) RGB, as Pillow does it with 8 bits: (1 - ink) (1 - black)."""
    if pixels.shape[-1] != 4 or pixels.dtype != np.uint16:
        raise InputError("has CMYK colours of an unusual kind; save it as RGB.")
    light = (65535 - pixels).astype(np.float64)
    return np.round(light[..., :3] * light[..., 3:] / 65535).astype(np.uint16)


def _widened(pixels: np.ndarray, bits: int) -> np.ndarray:
    return np.round(pixels * (65535 / (2**bits - 1))).astype(np.uint16)


def _page_alone(data: bytes, page: tifffile.TiffPage) -> bytes:
    """The file as one of this page, with nothing but what says how its pixels are stored."""
    order, big = page.parent.byteorder, page.parent.is_bigtiff
    head, word, step = ("Q", "Q", 20) if big else ("H", "I", 12)
    result = bytearray(data)
    first = page.offset + struct.calcsize("=" + head)
    (count,) = struct.unpack_from(order + head, data, page.offset)
    entries = [data[first + i * step : first + (i + 1) * step] for i in range(count)]
    kept = [e for e in entries if struct.unpack_from(order + "H", e)[0] in _STORAGE]
    new = struct.pack(order + head, len(kept)) + b"".join(kept) + bytes(8 if big else 4)
    result[page.offset : page.offset + len(new)] = new
    struct.pack_into(order + word, result, 8 if big else 4, page.offset)
    return bytes(result)
