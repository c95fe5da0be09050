"""A run whose directory is an address: it works in a folder here that is mirrored there.

Whole files go up after every checkpoint, so this works with every store that fsspec knows, and
nothing else needs to know of addresses. Orbax and tensorstore could write there themselves, but to
two stores only, and neither the log, the pictures nor the checksums.

In the order of uploading: a checkpoint's files come before its checksums, and one without them
counts for nothing; old checkpoints go last. So an upload may be killed anywhere.
"""

import contextlib
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import jax

from sa_flax.errors import InputError, StorageError
from sa_flax.files import cache_folder
from sa_flax.models.saved import WEIGHTS
from sa_flax.remote import AddressError, Remote, is_address
from sa_flax.training import processes
from sa_flax.training.run_data import DATA
from sa_flax.training.run_directory import CHECKPOINTS, CHECKSUMS, CONFIG, STARTS


class Mirror:
    """Where a run works, and where that is copied to.

    Args:
      output: the run's directory, or its address.
      folder: where it works; None for `output` itself.

    Attributes:
      name: what the user calls the run's directory.
      folder: the directory that it works in.
      shared: whether all processes of the run work in this one folder.
    """

    def __init__(self, output: str | Path, folder: Path | None = None):
        self.name, self.folder = str(output), Path(output) if folder is None else folder
        self.shared = folder is None or jax.process_count() == 1
        self._remote: Remote | None = None
        self._sent: dict[str, tuple[int, int]] = {}  # size and time of what is there
        self._starts = b""
        self._failed: AddressError | None = None

    def take_up(self, remote: Remote) -> None:
        """Gets what is there, in process 0; what could not be uploaded earlier comes before it.

        Raises:
          AddressError: where it can't be read or written.
          InputError: where something else than a run is there.
        """
        if remote.read(CONFIG) is None and not remote.is_empty():
            raise InputError(
                f"{self.name} is not empty and is not a training run's directory. Choose another "
                "with --output."
            )
        remote.check_writable()
        self._starts = remote.read(STARTS) or b""
        there = remote.list()
        for step in _steps(there) - _steps(there, whole=True):
            remote.remove(f"{CHECKPOINTS}/{step}")
        here = self.folder / STARTS
        if self._behind.exists() and here.is_file():
            if here.read_bytes().startswith(self._starts):
                print(f"{self.name}: goes on with {self.folder}, which was not uploaded to its end")
                self._sent = dict.fromkeys(_wanted(there), (-1, -1))
                self._remote = remote
                return
            aside = Path(tempfile.mkdtemp(prefix="not-uploaded-", dir=self.folder.parent))
            self.folder.rename(aside / self.folder.name)
            print(
                f"{self.name} went on elsewhere; what had not been uploaded from here is kept in "
                f"{aside}"
            )
        fetched = self.folder.parent / "fetching"
        for old in (fetched, self.folder):
            shutil.rmtree(old, ignore_errors=True)
        remote.fetch(_wanted(there), fetched)
        if fetched.is_dir():
            fetched.rename(self.folder)
        self._behind.unlink(missing_ok=True)
        self._sent = {name: self._stamp(name) for name in self._names()}
        self._remote = remote

    def changing(self) -> None:
        """To be called before something is saved in the folder: it is not up there until pushed."""
        if self._remote is not None:
            self._behind.touch()

    def push(self) -> None:
        """Uploads what is new; where that fails it says so, and the next call tries again.

        Raises:
          StorageError: where another start of the run has taken over there.
        """
        if self._remote is None:
            return
        try:
            self._upload(self._remote)
            self._failed = None
        except AddressError as error:
            self._failed = error
            print(
                f"not uploaded: {error} Training goes on; the next checkpoint tries again.",
                file=sys.stderr,
                flush=True,
            )

    def finish(self) -> None:
        """Uploads the rest.

        Raises:
          StorageError: where that fails; it names the folder that holds everything.
        """
        self.push()
        if self._failed is not None:
            raise StorageError(
                f"not all could be uploaded: {self._failed} The whole run is in {self.folder}; the "
                "same command, on this machine, uploads it."
            )
        if self._remote is not None:
            print(f"all of it is at {self.name}, for --model too")

    def _upload(self, remote: Remote) -> None:
        self.changing()  # before anything can fail
        theirs = remote.read(STARTS)
        if theirs is None:  # a new run, or somebody has emptied the place
            self._sent = {}
        elif theirs != self._starts:
            raise StorageError(
                f"another start of this run writes to {self.name} now: this one leaves it alone "
                f"and ends. What it had is in {self.folder}."
            )
        names = self._names()
        new = [name for name in names if self._sent.get(name) != self._stamp(name)]
        gone = _steps(self._sent) - _steps(names)
        for name in new:
            stamp = self._stamp(name)  # before it is read: it may grow meanwhile
            content = (self.folder / name).read_bytes()
            remote.write(name, content)
            self._sent[name] = stamp
            if name == STARTS:
                self._starts = content
        for step in gone:
            remote.remove(f"{CHECKPOINTS}/{step}/{CHECKSUMS}")
            remote.remove(f"{CHECKPOINTS}/{step}")
            of_step = f"{CHECKPOINTS}/{step}/"
            self._sent = {n: s for n, s in self._sent.items() if not n.startswith(of_step)}
        self._behind.unlink()

    @property
    def _behind(self) -> Path:
        """A file that is there while the address lacks something that the folder has."""
        return self.folder.parent / "behind"

    def _stamp(self, name: str) -> tuple[int, int]:
        status = (self.folder / name).stat()
        return status.st_size, status.st_mtime_ns

    def _names(self) -> list[str]:
        """What belongs at the address, in the order in which it has to get there."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        names = _wanted(path.relative_to(self.folder).as_posix() for path in paths)
        first = (CONFIG, DATA, STARTS)
        return sorted(
            names,
            key=lambda name: (
                name not in first,
                not name.startswith(f"{CHECKPOINTS}/"),
                name.endswith(f"/{CHECKSUMS}"),
                not name.endswith(f"/{WEIGHTS}"),
                name,
            ),
        )


@contextlib.contextmanager
def mirrored(output: str | Path) -> Iterator[Mirror]:
    """The folder to work in for an output: itself, or where an address is mirrored.

    All processes call this. Process 0 works in the user's cache folder, which it uploads; the
    others only read a few files that say how far the run is, and forget them at the end.

    Raises:
      InputError: where the address can't be used, or holds something else.
      StorageError: at the end, where not everything could be uploaded.
    """
    if not is_address(output):
        yield Mirror(output)
        return
    address = str(output)
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            digest = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16]
            place = cache_folder() / "runs" / digest
        else:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sa_flax-")))
        mirror = Mirror(address, place / (address.rstrip("/").rpartition("/")[2] or "run"))

        def take_up() -> None:
            remote = Remote(address)
            try:
                place.mkdir(parents=True, exist_ok=True)
                stack.enter_context(filelock.FileLock(place / "lock", timeout=0))
            except filelock.Timeout as error:
                raise InputError(
                    f"another run is going on in {address}. Wait for it, or choose another "
                    "--output."
                ) from error
            except OSError as error:
                raise InputError(
                    f"a run at an address works in {place}, which can't be written "
                    f"({error.strerror or error}). Set XDG_CACHE_HOME to a folder with room for it."
                ) from error
            mirror.take_up(remote)

        processes.first(take_up)
        processes.all_or_none(lambda: None if processes.is_first() else _look(mirror))
        try:
            yield mirror
        except InputError as error:
            if type(error) is InputError:  # the user knows the address, not the folder
                raise InputError(str(error).replace(str(mirror.folder), address)) from error
            raise
        except Exception:
            mirror.push()
            raise
        mirror.finish()


def _look(mirror: Mirror) -> None:
    """Gets the few files that say what the run is and how far."""
    remote = Remote(mirror.name)
    names = [name for name in _wanted(remote.list()) if name.endswith(".json")]
    remote.fetch(names, mirror.folder)


def _steps(names: "Iterator[str] | list[str] | dict", *, whole: bool = False) -> set[str]:
    """The steps of which there are files; with `whole`, of which there are checksums."""
    split = (name.split("/") for name in names if name.startswith(f"{CHECKPOINTS}/"))
    return {p[1] for p in split if p[1].isdigit() and (not whole or p[2:] == [CHECKSUMS])}


def _wanted(names: "Iterator[str] | list[str]") -> list[str]:
    """Without hidden files, and of the checkpoints only those that are whole."""
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    whole = _steps(names, whole=True)
    return [n for n in names if n.split("/")[0] != CHECKPOINTS or n.split("/")[1] in whole]
