"""How large a checkpoint becomes in memory, told from its headers before anything is read.

A file of a few megabytes can claim any size: compressed zeros, one number stretched to a billion by
its strides, a sparse file.
"""

import json
import math
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def of_safetensors(path: Path) -> int:
    """Bytes of all arrays that the header of a .safetensors file lists.

    Raises:
      ValueError: where the header is no such header, or claims more than the file holds.
    """
    size = os.path.getsize(path)
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError("it has no header")
        (length,) = struct.unpack("<Q", start)
        if length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"its header claims {length} bytes of {size}")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    ends = [_end(entry) for entry in header.values()]
    if max(ends, default=0) != size - 8 - length:
        raise ValueError(
            f"its header lists {max(ends, default=0)} bytes, and {size - 8 - length} are there"
        )
    return size


def _end(entry: Any) -> int:
    try:
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end:
            raise ValueError(f"an array lies from {begin} to {end}")
    except (TypeError, KeyError) as error:
        raise ValueError("its header is damaged") from error
    return int(end)


def of_zip(path: Path) -> int:
    """Bytes of a zip archive's entries when they are unpacked; 0 for any other file.

    Raises:
      zipfile.BadZipFile: for an archive that is damaged.
    """
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def of_tensors(content: Any) -> int:
    """Bytes of all PyTorch tensors in nested containers, each at its full shape."""
    total = 0
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:  # containers may hold each other, and many times over
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting += list(value.values())
        elif isinstance(value, list | tuple | set):
            waiting += list(value)
        elif hasattr(value, "element_size") and hasattr(value, "shape"):
            total += math.prod(value.shape) * value.element_size()
    return total
