"""How much memory there is, and how much a computation takes."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from sa_flax.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
# Where nothing says how much is free.
_UNKNOWN = 2 * 10**9


def parse_bytes(size: str | int) -> int:
    """Bytes of "2GB", "1.5 GiB", "800M" or a number: units of 1000, with an i of 1024.

    Raises:
      InputError: for anything else, and for less than 1 MB.
    """
    if isinstance(size, bool) or not isinstance(size, str | int):
        raise InputError(f"memory must be bytes or a text like '2GB'; got {size!r}.")
    match = _SIZE.fullmatch(str(size))
    if match is None:
        raise InputError(f"memory must be bytes or a text like '2GB' or '800MB'; got {size!r}.")
    number, unit, binary = match.groups()
    scale = _UNITS[unit.lower()]
    if binary:
        scale = 1024 ** {1: 0, 10**3: 1, 10**6: 2, 10**9: 3, 10**12: 4}[scale]
    amount = int(float(number) * scale)
    if amount < 10**6:
        raise InputError(f"memory must be at least 1 MB; got {size!r}.")
    return amount


def resident() -> int:
    """Bytes of memory that this process holds, 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def free() -> int:
    """Bytes that a process may still take: of the machine's, and of its control group's."""
    found = [_available(), _group_room()]
    return min((room for room in found if room is not None), default=_UNKNOWN)


def _available() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
        return int(re.search(r"MemAvailable:\s*(\d+) kB", text)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return None


def _group_room() -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            group = Path("/sys/fs/cgroup")
            return max(int((group / limit).read_text()) - int((group / used).read_text()), 0)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def bytes_per_pixel(function: Callable[..., Any], height: int, width: int, *args: Any) -> float:
    """Memory that `function(*args)` takes at its fullest, for each of height x width pixels.

    By the lives of its values before the compiler: an upper bound, near what XLA plans on CPUs.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    last = {v: i for i, e in enumerate(jaxpr.eqns) for v in e.invars if not hasattr(v, "val")}
    last.update({v: len(jaxpr.eqns) for v in jaxpr.outvars if not hasattr(v, "val")})
    held = most = 0
    for index, equation in enumerate(jaxpr.eqns):
        made = [v for v in equation.outvars if v in last]
        held += sum(_size(v.aval) for v in made)
        most = max(most, held)
        made_here = {*jaxpr.invars, *jaxpr.constvars}
        held -= sum(
            _size(v.aval)
            for v in {v for v in equation.invars if not hasattr(v, "val")}
            if last.get(v) == index and v not in made_here
        )
    return most / (height * width)


def _size(aval: Any) -> int:
    return int(getattr(aval, "size", 0)) * getattr(getattr(aval, "dtype", None), "itemsize", 0)
