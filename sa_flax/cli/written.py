"""What the commands wrote into a folder, which may be made anew; pictures of somebody's own are not
replaced unasked. A hidden file in the folder notes name and SHA-256 of each result."""

import contextlib
import hashlib
import json
from pathlib import Path

NOTES = ".sa_flax_results"


def note(path: Path) -> None:
    """Notes a file that was just written. Where that is not possible, it is not known later."""
    with contextlib.suppress(OSError):
        line = json.dumps([path.name, _digest(path)])
        with path.with_name(NOTES).open("a", encoding="ascii") as notes:
            notes.write(f"{line}\n")


class Written:
    """Looks up what was noted; each folder's notes are read once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, str]] = {}

    def has(self, path: Path) -> bool:
        """Whether this file is as the commands have left it."""
        if path.parent not in self._folders:
            self._folders[path.parent] = _read(path.with_name(NOTES))
        noted = self._folders[path.parent].get(path.name)
        try:
            return noted is not None and noted == _digest(path)
        except OSError:
            return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(notes: Path) -> dict[str, str]:
    """The last that was noted of each name; lines that are damaged are passed over."""
    found = {}
    with contextlib.suppress(OSError):
        for line in notes.read_bytes().splitlines():
            with contextlib.suppress(ValueError, TypeError):
                name, digest = json.loads(line)
                found[str(name)] = str(digest)
    return found
