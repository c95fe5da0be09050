"""Errors that a command prints without a traceback: they say what happened and what to do."""

import difflib
import errno
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong option, path or file. Commands print it without a traceback and exit with code 2."""


class RunError(RuntimeError):
    """What was asked for was right, but it could not be finished. Commands exit with code 1."""


class DivergedError(RunError):
    """Training met losses that are not finite."""


class StorageError(RunError):
    """Something could not be written whole."""


class WorkerDiedError(RunError):
    """A process that prepares training data is gone."""


def explain(error: Exception) -> tuple[int, str] | None:
    """Exit code and message of an error that needs no traceback; None for any other."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, RunError):
        return 1, str(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return 1, f"can't write: {error}. Make room and run it again."
    if out_of_memory(error):
        reason = (str(error).splitlines() or ["MemoryError"])[0][:200]
        return 1, (
            f"not enough memory ({reason}). Lower --data.batch-size, --data.crop or --model.width; "
            "or the same step with less: --optimizer.accumulate, --optimizer.remat."
        )
    return None


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, NumPy or JAX means that there was not enough memory."""
    # JAX has one class for all that goes wrong on a device; the status stands in its message.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" where one of `known` is close to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
