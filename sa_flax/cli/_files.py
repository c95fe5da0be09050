"""Writing files: whole or not at all."""

import contextlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

# Files that are being written; whoever ends the process at once removes them first.
_unfinished: set[Path] = set()
_lock = threading.Lock()


def write_whole(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> None:
    """Calls `writer(temporary)` and puts the file that it wrote in the place of `path`.

    Links are followed and stay; into pipes and devices the content is copied. Missing folders are
    made. On an error nothing is left behind.

    Args:
      path: the file to write, or replace.
      writer: writes a new file to the path that it is given, which ends as `path` does.

    Raises:
      OSError: where the file can't be written; and whatever `writer` raises.
    """
    through = _is_stream(path)
    target = Path(path if through else os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if through else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    # Not named after the file, whose name may be as long as names can be.
    temporary = folder / f".{os.getpid()}.{threading.get_ident()}.partial{target.suffix[:16]}"
    with _lock:
        _unfinished.add(temporary)
    try:
        writer(temporary)
        if through:
            with target.open("wb") as pipe:
                pipe.write(temporary.read_bytes())
        else:
            temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):  # it is not there, and perhaps its folder neither
            temporary.unlink()
        with _lock:
            _unfinished.discard(temporary)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_whole` for a text, in UTF-8."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def discard_unfinished() -> None:
    """Removes what is being written. Afterwards nothing more is: for the end of the process."""
    _lock.acquire()
    for temporary in _unfinished:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a pipe, a device, or a name of an open file: nothing to put another for."""
    if os.fspath(path).startswith(("/dev/", "/proc/")):
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
