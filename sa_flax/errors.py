"""The one error that means: what you asked for can't be done as asked, and here is what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong option, path or file. Commands print it without a traceback and exit with code 2."""


class DivergedError(RuntimeError):
    """Training met a loss that is not finite. Commands print it and exit with code 1."""


class WorkerDiedError(RuntimeError):
    """A process that prepares training data is gone. Commands print it and exit with code 1."""


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
