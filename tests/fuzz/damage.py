"""What the fuzz tests share: ways to damage a file, and what must hold whatever was damaged."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sa_flax.errors import InputError


def cases(count: int) -> Callable:
    """So many cases, the same in every run; with SA_FLAX_FUZZ=N, N times as many, always others."""
    times = int(os.environ.get("SA_FLAX_FUZZ", "0"))
    return settings(
        max_examples=count * max(times, 1),
        derandomize=times == 0,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` cut short anywhere, or with up to four bytes changed, most of them near its start."""
    if draw(st.integers(0, 3)) == 0:
        return whole[: draw(st.integers(0, len(whole) - 1))]
    result = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        last = len(whole) - 1
        place = draw(st.integers(0, min(63, last)) | st.integers(0, last))
        result[place] ^= draw(st.integers(1, 255))
    return bytes(result)


def snapshot(folder: Path) -> dict[str, Any]:
    """Every path in a folder, with what stands in the file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in sorted(folder.rglob("*"))
    }


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Fails where anything in `folder` changes inside."""
    before = snapshot(folder)
    yield
    assert snapshot(folder) == before


def refusal(function: Callable, *arguments: Any, names: str = "") -> str | None:
    """The message with which `function` refuses its arguments, or None where it returns.

    Any exception but InputError is the fault these tests look for, and passes through.
    """
    try:
        function(*arguments)
    except InputError as error:
        message = str(error)
        assert names in message
        check_message(message)
        return message
    return None


def check_message(message: str) -> None:
    """A person can read it: it has words, and is neither a traceback nor pages long."""
    assert len(message.split()) >= 3
    assert len(message) < 4000
    assert "Traceback" not in message
    assert " object at 0x" not in message
