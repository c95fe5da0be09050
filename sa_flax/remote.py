"""Folders that are no folders of this machine: gs://bucket/run, s3://bucket/run and whatever else
fsspec reaches."""

import contextlib
import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sa_flax.errors import InputError, nearest, no_room

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # not C:\runs
# Stores without folders: there a file appears at once when it is whole, and making the folder of a
# bucket that isn't there would make the bucket. Elsewhere files are put beside their place first.
_FLAT = ("gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "memory")
_IN_EXTRA = ("gs", "gcs", "s3", "s3a")
_PROBE = ".can-this-be-written"


class AddressError(InputError):
    """An address that can't be reached, read or written: which, why, and what to do."""


def is_address(name: str | os.PathLike[str]) -> bool:
    """Whether `name` is an address, gs://bucket/run for example, rather than a path."""
    return _ADDRESS.match(os.fspath(name)) is not None


def check_path(name: str | os.PathLike[str], what: str = "") -> None:
    """Raises InputError for an address where only a file or folder of this machine will do."""
    if is_address(name):
        raise InputError(
            f"{what} needs a file or folder of this machine; got the address {os.fspath(name)}. "
            "Copy between the two by the store's own program.".lstrip()
        )


class Remote:
    """The files below an address. Names are relative to it, with slashes.

    Args:
      address: e.g. "gs://bucket/runs/quick".

    Attributes:
      address: without a slash at its end.
      name: its last part.

    Raises (as all methods do):
      AddressError: where it can't be reached.
    """

    def __init__(self, address: str):
        scheme, slashes, place = address.partition("://")
        if not slashes or not place.strip("/"):
            raise AddressError(f"{address} is no whole address, which gs://BUCKET/FOLDER would be.")
        scheme = scheme.lower()
        self.address = f"{scheme}://{place.rstrip('/')}"
        self.name = self.address.rpartition("/")[2]
        self._flat = scheme in _FLAT
        import fsspec  # half a second with the packages of the big stores

        for package in ("fsspec", "gcsfs", "s3fs"):  # what they log is in the error, too
            logging.getLogger(package).setLevel(logging.CRITICAL)
        known = fsspec.available_protocols()
        if scheme not in known:
            raise AddressError(
                f"{address}: there is no kind of address {scheme}://.{nearest(scheme, known)} "
                "Give gs://, s3:// or another that fsspec knows, or a folder."
            )
        try:
            with self._explained("reached"):
                self._files, root = fsspec.url_to_fs(self.address)
        except ImportError as error:
            extra = ": pip install 'sa_flax[cloud]'" if scheme in _IN_EXTRA else ""
            raise AddressError(
                f"{address} needs a package that is not installed{extra or f' ({error})'}."
            ) from error
        self._root = str(root).rstrip("/")

    def list(self) -> list[str]:
        """The names of all files."""
        with self._explained("read"):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._root)
            except FileNotFoundError:
                return []
        inside = (path.removeprefix(f"{self._root}/") for path in found)
        # Consoles of stores without folders mark one by an empty file with its name and a slash.
        return sorted(name for name in inside if name and not name.endswith("/"))

    def is_empty(self) -> bool:
        """Whether there is nothing, but for empty folders and names that begin with a dot."""
        with self._explained("read"):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=True)
            except FileNotFoundError:
                return True
        kinds = {
            e["name"].rstrip("/").removeprefix(self._root).strip("/"): e["type"] for e in found
        }
        seen = {kind for name, kind in kinds.items() if name and not name.startswith(".")}
        # All is listed only where there are none but folders: it may be much.
        return "file" not in seen and all(name.startswith(".") for name in self.list())

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""
        with self._explained("read"):
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def fetch(self, names: Iterable[str], folder: Path) -> None:
        """Copies files into a folder, under their names."""
        names = list(names)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with self._explained("read"):
            if names:
                self._files.get([*map(self._path, names)], [str(folder / name) for name in names])

    def write(self, name: str, content: bytes) -> None:
        """Writes a file: whoever looks finds the old content or the new, and never half of it."""
        with self._explained("written"):
            if self._flat:
                self._files.pipe_file(self._path(name), content)
                return
            parent, _, last = self._path(name).rpartition("/")
            self._files.makedirs(parent, exist_ok=True)
            self._files.pipe_file(f"{parent}/.{last}.partial", content)
            self._files.mv(f"{parent}/.{last}.partial", self._path(name))

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all that is in it; nothing happens where it is gone."""
        with self._explained("written"), contextlib.suppress(FileNotFoundError):
            self._files.invalidate_cache()
            self._files.rm(glob.escape(self._path(name)), recursive=True)  # it looks for patterns

    def check_writable(self) -> None:
        """Writes a small file and removes it."""
        self.write(_PROBE, b"1")
        self.remove(_PROBE)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ImportError, AddressError):
            raise
        except Exception as error:  # every store has errors of its own
            if what == "read" and no_room(error):  # of this machine
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if isinstance(error, FileNotFoundError):
                advice = "There is no such bucket: make it, or correct its name."
            elif isinstance(error, PermissionError):
                advice = "Let this machine's account read, write and delete there, or log in."
            else:
                advice = "Check the bucket's name, this machine's log-in there, and the network."
            raise AddressError(f"{self.address} can't be {what} ({reason}). {advice}") from error
