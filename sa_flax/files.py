"""Files that are written whole or not at all."""

import contextlib
import errno
import io
import itertools
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from sa_flax.errors import InputError, StorageError

Content = str | bytes | Callable[[BinaryIO], object]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Paths below these name what is open or plugged in: a name put in their place would mean nothing.
_THROUGH = ("/dev/", "/proc/")
_numbers = itertools.count()
# What is being written: whoever ends the process at once removes it first.
_unfinished: set[Path] = set()
_lock = threading.Lock()


def cache_folder() -> Path:
    """Where files are kept for this user: $XDG_CACHE_HOME/sa_flax, else ~/.cache/sa_flax.

    Without a home (in a container, say) it is a folder of the user's own among temporary files. It
    need not be there yet.

    Raises:
      InputError: where that folder belongs to someone else.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base, "sa_flax")
    home = os.path.expanduser("~")
    if home != "~" and os.path.isdir(home):
        return Path(home, ".cache", "sa_flax")
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"sa_flax-{user}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if os.stat(folder, follow_symlinks=False).st_uid != user:
        raise InputError(
            f"no home to keep files in, and {folder} belongs to someone else. Set XDG_CACHE_HOME "
            "to a folder of your own."
        )
    return folder


def write_whole(path: str | os.PathLike[str], writer: Content) -> None:
    """Writes a file so that whoever looks finds the old content or the new, and never half of it.

    A regular file is written beside its place under another name, brought to the disk, and put in
    its place, with the old one's permissions. A link stays: the file it leads to is replaced. A
    pipe or a device (and /dev/stdout, whatever it leads to) is written to, not replaced; nothing
    goes there before the writer is through. Folders that are missing on the way are made.

    Args:
      path: where to.
      writer: the content, or a function that writes it to the binary file that it is given. That
        file can be read and sought in.

    Raises:
      StorageError: where the file can't be written, with the reason. What `writer` itself raises,
        other than OSError, comes through. Nothing is left behind in either case.
    """
    path = Path(path)
    try:
        if is_written_through(path):
            _write_through(path, writer)
        else:
            _replace(Path(os.path.realpath(path)), writer)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        advice = " Make room and run it again." if error.errno in _NO_ROOM else ""
        raise StorageError(f"{path}: can't be written ({reason}).{advice}") from error


def write_by_name(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> None:
    """`write_whole` for libraries that write to a path of their own choice of files.

    Args:
      path: where to.
      writer: writes one file to the path that it is given, which ends as `path` does.
    """
    with tempfile.TemporaryDirectory(prefix="sa_flax-") as folder, _unless_ended(Path(folder)):
        temporary = Path(folder, f"file{Path(path).suffix}")
        writer(temporary)
        with temporary.open("rb") as content:
            write_whole(path, lambda file: shutil.copyfileobj(content, file))


def discard_unfinished() -> None:
    """Removes what is being written. Afterwards nothing more is: for the end of the process."""
    _lock.acquire()
    for temporary in _unfinished:
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()


@contextlib.contextmanager
def _unless_ended(temporary: Path) -> Iterator[None]:
    """Inside, `discard_unfinished` removes this file or folder."""
    with _lock:
        _unfinished.add(temporary)
    try:
        yield
    finally:
        with _lock:
            _unfinished.discard(temporary)


def is_written_through(path: Path) -> bool:
    """Whether `path` is a pipe, a device or an open stream, which `write_whole` doesn't replace."""
    if os.path.abspath(path).startswith(_THROUGH) or os.path.realpath(path).startswith(_THROUGH):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:  # not there yet, or a link to what is not there yet
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write_through(path: Path, writer: Content) -> None:
    content = io.BytesIO()  # a pipe can't be sought in, which formats of pictures need
    _put(writer, content)
    # At the end: standard output may be a file that has something in it.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0) as file:
        left = content.getbuffer()
        while left:
            left = left[file.write(left) :]


def _replace(path: Path, writer: Content) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.is_symlink():  # still, after all links were followed
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as (temporary, file):
        with file:
            with contextlib.suppress(OSError):  # no old file, or no permission to change modes
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            _put(writer, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    _bring_to_disk(path.parent)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in the same folder, gone at the end where it was not given another name."""
    # Not named after the file, whose name may be as long as names can be.
    while True:
        temporary = path.with_name(f".{os.getpid()}-{next(_numbers)}.partial")
        try:
            file = temporary.open("x+b")
        except FileExistsError:  # left by a process that was killed and had the same number
            continue
        break
    with _unless_ended(temporary):
        try:
            yield temporary, file
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _put(writer: Content, file: BinaryIO) -> None:
    if isinstance(writer, str):
        # Names of files, which texts may hold, need not be text; \udce9 is what JSON makes of them.
        file.write(writer.encode("utf-8", "backslashreplace"))
    elif isinstance(writer, bytes):
        file.write(writer)
    else:
        writer(file)


def _bring_to_disk(folder: Path) -> None:
    """So that the new name outlives a loss of power; some file systems can't, which is no fault."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
