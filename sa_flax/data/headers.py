"""Files of pictures by their first and last bytes: size, what they hold, whether they are whole.

A folder of 20,000 pictures is looked through in seconds, which decoding them would take hours for.
"""

import collections
import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from sa_flax.errors import InputError
from sa_flax.pictures import read_rgb8
from sa_flax.pictures.pillow import quiet_pillow

# Of these the header and the end of a file tell enough; all others are decoded.
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")
_LARGE = 2**26  # pixels: whether so many are decoded at all is for the reader to say
_LOOKED_AT = 4096  # bytes, at the start and at the end of a file
_THREADS = 8  # files on a disk far away are slow to open, many at once hardly slower
_ORIENTATION = 0x0112  # EXIF
_TURNED = (5, 6, 7, 8)  # its values that exchange height and width
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
_STRIPS, _TILES = (273, 279), (324, 325)  # TIFF: where they begin, and how long they are
_SAMPLE_FORMAT, _UNSIGNED = 339, 1  # TIFF


class PictureFile(NamedTuple):
    """A file that holds a picture.

    Attributes:
      path: the file.
      height, width: in pixels, upright.
      digest: changes with the length of the file, and with its first and last bytes.
    """

    path: Path
    height: int
    width: int
    digest: str

    @property
    def shorter(self) -> int:
        """The shorter side in pixels."""
        return min(self.height, self.width)


def look_at_all(paths: Sequence[Path]) -> tuple[list[PictureFile], list[tuple[Path, str]]]:
    """The files that hold a picture, in order, and the others, each with the reason.

    A picture that is damaged in its middle is found only when it is decoded. Where header and end
    tell too little, it is decoded now; several at once.
    """
    with quiet_pillow(), ThreadPoolExecutor(_THREADS) as pool:
        looks = list(pool.map(_look_at, paths))
    good = [look for look in looks if isinstance(look, PictureFile)]
    bad = [
        (path, str(look).removeprefix(f"{path}: "))
        for path, look in zip(paths, looks, strict=True)
        if isinstance(look, InputError)
    ]
    return good, bad


def scenes(files: Sequence[PictureFile]) -> list[str]:
    """What each shows: equal for copies alone.

    Digests tell pictures apart, but files without compression may begin and end alike: bars, or a
    frame around all of a series. So where digests are equal, the whole files are read.
    """
    count = collections.Counter(file.digest for file in files)
    return [file.digest if count[file.digest] == 1 else _whole_digest(file) for file in files]


def _whole_digest(picture: PictureFile) -> str:
    try:
        with picture.path.open("rb") as file:
            return hashlib.file_digest(file, hashlib.blake2b).hexdigest()
    except OSError as error:
        raise InputError(f"{picture.path}: can't be read ({error.strerror}).") from error


def look_at(path: Path) -> PictureFile:
    """One file. Raises InputError, naming it, where it holds no picture that can be decoded."""
    with quiet_pillow():
        look = _look_at(path)
    if isinstance(look, InputError):
        raise look
    return look


def _look_at(path: Path) -> PictureFile | InputError:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe might never end
            return InputError(f"{path}: is not a file.")
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            head = file.read(_LOOKED_AT)
            file.seek(max(0, length - _LOOKED_AT))
            tail = file.read(_LOOKED_AT)
            file.seek(0)
            shape = _whole_shape(file, head, tail, length)
        if shape is None:
            shape = read_rgb8(path).shape[:2]
    except FileNotFoundError:
        return InputError(f"{path}: is a link to a file that is not there.")
    except OSError as error:
        return InputError(f"{path}: can't be read ({error.strerror}).")
    except InputError as error:
        return error
    digest = hashlib.blake2b(b"%d" % length + head + tail, digest_size=8).hexdigest()
    return PictureFile(path, *shape, digest)


def _whole_shape(file: BinaryIO, head: bytes, tail: bytes, length: int) -> tuple[int, int] | None:
    """Height and width by the header; None where it leaves a doubt."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if image.mode in ("F", "I") or width * height > _LARGE:
                return None
            if not _is_whole(image, head, tail, length):
                return None
            # Pillow would decode a PNG to look for EXIF data behind the pixels.
            if image.format == "PNG" and "exif" not in image.info:
                return height, width
            if image.getexif().get(_ORIENTATION) not in _TURNED:
                return height, width
            # Whether the size of a TIFF is that of the turned picture depends on the release.
            return None if image.format == "TIFF" else (width, height)
    except Exception:  # of any class: Pillow's decoders fail in any way whatever
        return None


def _is_whole(image: Image.Image, head: bytes, tail: bytes, length: int) -> bool:
    if image.format in _ENDS:
        return _ENDS[image.format] in tail
    if image.format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= length
    tags = getattr(image, "tag_v2", None)
    if image.format == "TIFF" and tags is not None:
        if {*tags.get(_SAMPLE_FORMAT, ())} - {_UNSIGNED}:
            return False
        for begins, lengths in (_STRIPS, _TILES):
            if begins in tags and lengths in tags:
                parts = zip(tags[begins], tags[lengths], strict=True)
                return all(start + size <= length for start, size in parts)
    return False
