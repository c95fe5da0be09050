"""Formats that packages of their own decode, where they are installed: HEIC, JPEG XL, raw."""

import importlib
import importlib.util
import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures.companions import companions
from sa_flax.pictures.limits import check_size
from sa_flax.pictures.picture import Pages, Picture
from sa_flax.pictures.pillow import one_error, open_image, pixels_of
from sa_flax.pictures.tags import ORIENTATION, carried, pack_exif, read_exif

HEIC_QUALITY = 90
JXL_QUALITY = 95


def missing(package: str) -> bool:
    """Whether a package is not installed; it is not imported."""
    return importlib.util.find_spec(package) is None


def _load(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(how_to_install(extra)) from error


def how_to_install(extra: str) -> str:
    """What to say of a format whose package is not there."""
    return f"needs a package that is not installed: pip install 'sa_flax[{extra}]'."


def _beside(info: dict[Any, Any]) -> dict[str, Any]:
    """The metadata; these decoders turn pictures upright themselves, whatever EXIF says."""
    directory, order = read_exif(info.get("exif") or b"")
    directory.pop(ORIENTATION, None)
    xmp = info.get("xmp")
    metadata, _ = companions(
        profile=info.get("icc_profile"), exif=pack_exif(directory, order), xmp=xmp
    )
    return metadata


def read_heif(data: bytes, limit: int) -> Pages:
    """A HEIC file, of 8 bits or of 10 and 12; see `decoding.decode`.

    Pictures beside the first (depth, thumbnails, a burst) are left out.
    """
    heif = _load("pillow_heif", "heif")
    with one_error():
        file = heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    width, height = file.size
    check_size(width, height, limit)

    def picture(number: int) -> Picture:
        del number
        with one_error():
            pixels = np.asarray(file)
        bits = int(file.info.get("bit_depth", 8))
        if pixels.dtype == np.uint16:  # the values stand in the highest bits
            pixels = np.round((pixels >> (16 - bits)) * (65535 / (2**bits - 1))).astype(np.uint16)
        return Picture(np.ascontiguousarray(pixels), _beside(dict(file.info)) | {"bits": bits})

    return Pages(1, picture)


def write_heif(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a HEIC file; see `files.write_picture`. 16 bits become 10, or the 12 it had."""
    heif = _load("pillow_heif", "heif")
    pixels = np.ascontiguousarray(picture.pixels)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2] if pixels.ndim == 3 else 1]
    deep = pixels.dtype == np.uint16
    encoded = heif.from_bytes(
        mode=f"{mode};16" if deep else mode,
        size=(pixels.shape[1], pixels.shape[0]),
        data=pixels.tobytes(),
    )
    names = ("icc_profile", "exif", "xmp")
    beside = {name: picture.metadata[name] for name in names if name in picture.metadata}
    before = heif.options.SAVE_HDR_TO_12_BIT
    heif.options.SAVE_HDR_TO_12_BIT = deep and picture.metadata.get("bits", 10) > 10
    try:
        encoded.save(file, quality=quality or HEIC_QUALITY, chroma=444, **beside)
    finally:
        heif.options.SAVE_HDR_TO_12_BIT = before


def read_jxl(data: bytes, limit: int) -> Pages:
    """A JPEG XL file; see `decoding.decode`."""
    _load("pillow_jxl", "jxl")
    width, height = _jxl_size(data)  # the plug-in decodes at once
    check_size(width, height, limit)
    image = open_image(data, "JXL", limit)
    return Pages(1, lambda number: Picture(pixels_of(image), _beside(dict(image.info))))


def _jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a codestream, or of the one in a container (ISO 18181)."""
    start = data.find(b"\xff\x0a", 0, 2**16)
    if start < 0:
        raise InputError("not a readable picture (it has no header).")
    bits = int.from_bytes(data[start + 2 : start + 18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    shapes = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
    across, down = shapes.get(ratio, (0, 1))
    return (height * across // down if ratio else side()), height


def write_jxl(file: BinaryIO, picture: Picture, quality: int | None) -> None:
    """Writes a JPEG XL file; see `files.write_picture`.

    Raises:
      InputError: for a picture with another colour profile than sRGB: the package writes none.
    """
    _load("pillow_jxl", "jxl")
    profile = picture.metadata.get("icc_profile", b"")
    if profile and b"sRGB" not in profile.replace(b"\0", b""):
        raise InputError(
            "JPEG XL files are written without a colour profile, and this picture has one that is "
            "not sRGB; use --format png"
        )
    options: dict[str, Any] = {"quality": quality or JXL_QUALITY}
    if quality == 100:
        options = {"lossless": True}
    exif = picture.metadata.get("exif", b"")
    xmp = picture.metadata.get("xmp")
    Image.fromarray(picture.pixels).save(file, "JXL", exif=exif, xmp=xmp, **options)


def read_raw(data: bytes, limit: int) -> Pages:
    """A camera's raw file, developed to 16-bit sRGB with its own white balance; `decoding.decode`.

    Not brightened to the picture's own white, so that pictures of a series stay alike.
    """
    rawpy = _load("rawpy", "raw")
    with one_error():
        raw = rawpy.imread(io.BytesIO(data))
    sizes = raw.sizes
    check_size(sizes.width, sizes.height, limit)

    def picture(number: int) -> Picture:
        del number
        with one_error():
            pixels = raw.postprocess(
                use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=(2.4, 12.92)
            )
        return Picture(np.ascontiguousarray(pixels), _beside({"exif": _exif_of_raw(data)}))

    return Pages(1, picture)


def _exif_of_raw(data: bytes) -> bytes:
    """What most raw files, which are TIFF files inside, say of camera and exposure."""
    directory, order = read_exif(data)
    return pack_exif(carried(directory), order)
