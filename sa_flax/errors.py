"""Errors that a command prints without a traceback: they say what happened and what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong option, path or file. Commands print it without a traceback and exit with code 2."""


class DivergedError(RuntimeError):
    """Training met losses that are not finite. Commands print it and exit with code 1."""


class StorageError(RuntimeError):
    """Something could not be written whole. Commands print it and exit with code 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" where one of `known` is close to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
