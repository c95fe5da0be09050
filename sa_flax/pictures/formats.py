"""The formats of picture files: their names, who reads and writes them, and what they can hold.

A new format is an entry in `FORMATS` and a function that reads it.
"""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sa_flax.pictures.plugged import missing


@dataclass(frozen=True)
class Format:
    """A format of picture files.

    Attributes:
      name: what people call it.
      suffixes: of its files, in small letters, with the dot.
      start: how its content starts, a regular expression; empty where only the suffix tells.
      reader: "module:function" in this room; see `decoding.decode`.
      writer: the same; see `files.write_picture`. Empty where it is not written.
      instead: the suffix of what is written in its stead, for suffixes that are not written.
      numbers: what numbers it holds.
      alpha: whether it holds transparency.
      gray: whether it holds gray, which the others store as RGB.
      side: its longest side, in pixels.
      package: what must be installed for it;
      extra: by the name that pip knows it under.
    """

    name: str
    suffixes: tuple[str, ...]
    start: bytes
    reader: str
    writer: str = ""
    instead: tuple[tuple[str, str], ...] = ()
    numbers: tuple[str, ...] = ("uint8",)
    alpha: bool = False
    gray: bool = True
    side: int = 2**31 - 1
    package: str = ""
    extra: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether the package that it needs is not installed."""
        return bool(self.package) and missing(self.package)

    def function(self, name: str) -> Callable:
        """Its reader or writer, whose module is imported only now."""
        module, function = name.split(":")
        return getattr(importlib.import_module(f"sa_flax.pictures.{module}"), function)


_DEEP = ("uint8", "uint16")
_ALL = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
_RAW = (
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf"),
    *(".rw2", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc", ".mrw", ".x3f"),
)
_HEIF = rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)"

FORMATS = (
    Format(
        "PNG",
        (".png", ".apng"),
        rb"\x89PNG\r\n\x1a\n",
        "png:read",
        "png:write",
        instead=((".apng", ".png"),),
        numbers=_DEEP,
        alpha=True,
    ),
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        rb"\xff\xd8\xff",
        "jpeg:read",
        "jpeg:write",
        side=65535,
    ),
    Format(
        "TIFF",
        (".tif", ".tiff"),
        rb"II[*+]\0|MM\0[*+]",
        "tiff:read",
        "tiff_writer:write",
        numbers=_ALL,
        alpha=True,
    ),
    Format(
        "WebP",
        (".webp",),
        rb"RIFF....WEBP",
        "webp:read",
        "webp:write",
        alpha=True,
        gray=False,
        side=16383,
    ),
    Format("BMP", (".bmp", ".dib"), rb"BM", "simple:read_bmp", "simple:write_bmp"),
    Format(
        "PNM",
        (".pnm", ".ppm", ".pgm", ".pbm"),
        rb"P[1-6]\s",
        "simple:read_pnm",
        writer="simple:write_pnm",
        instead=((".pbm", ".pgm"),),
        numbers=_DEEP,
    ),
    Format("GIF", (".gif",), rb"GIF8[79]a", "simple:read_gif", instead=((".gif", ".png"),)),
    Format(
        "AVIF",
        (".avif",),
        rb"....ftypavi[fs]",
        "simple:read_avif",
        "simple:write_avif",
        alpha=True,
        gray=False,
        side=65535,
    ),
    Format(
        "HEIC",
        (".heic", ".heif", ".hif"),
        _HEIF,
        "plugged:read_heif",
        "plugged:write_heif",
        numbers=_DEEP,
        alpha=True,
        side=8192,
        package="pillow_heif",
        extra="heif",
    ),
    Format(
        "JPEG XL",
        (".jxl",),
        rb"\xff\x0a|\0\0\0\x0cJXL ",
        "plugged:read_jxl",
        writer="plugged:write_jxl",
        alpha=True,
        package="pillow_jxl",
        extra="jxl",
    ),
    Format(
        "raw",
        _RAW,
        b"",
        "plugged:read_raw",
        instead=tuple((suffix, ".tif") for suffix in _RAW),
        package="rawpy",
        extra="raw",
    ),
)

# What a name of a picture may end in.
SUFFIXES = tuple(suffix for entry in FORMATS for suffix in entry.suffixes)


def by_suffix(path: str | os.PathLike[str]) -> Format | None:
    """The format that a file's name promises, or None."""
    suffix = Path(path).suffix.lower()
    return next((entry for entry in FORMATS if suffix in entry.suffixes), None)


def by_content(start: bytes) -> Format | None:
    """The format of a file that starts so (its first 32 bytes are enough), or None."""
    return next((e for e in FORMATS if e.start and re.match(e.start, start, re.DOTALL)), None)
