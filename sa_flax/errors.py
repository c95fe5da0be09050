"""Errors that a command prints without a traceback: they say what happened and what to do."""

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable
from typing import TextIO


class InputError(ValueError):
    """A wrong option, path or file. Commands print it without a traceback and exit with code 2."""


class CheckpointError(InputError):
    """A file that cannot be read as a checkpoint, or safely."""


class PortingError(InputError):
    """Weights that don't fit a model. Each list holds one line for every problem of its kind.

    Attributes:
      unused: source entries that no rule uses.
      unfilled: leaves of the model (or PyTorch names) that nothing fills.
      ambiguous: entries that two rules, or rules and leaves that two entries, lay claim to.
      misfits: shapes and dtypes that don't fit, and values that are not finite.
    """

    def __init__(
        self,
        subject: str,
        *,
        unused: Iterable[str] = (),
        unfilled: Iterable[str] = (),
        ambiguous: Iterable[str] = (),
        misfits: Iterable[str] = (),
    ):
        self.unused, self.unfilled = list(unused), list(unfilled)
        self.ambiguous, self.misfits = list(ambiguous), list(misfits)
        lines = [f"{subject}:"]
        for title, problems in (
            ("used by no rule", self.unused),
            ("filled by nothing", self.unfilled),
            ("claimed twice", self.ambiguous),
            ("of the wrong shape or kind, or not finite", self.misfits),
        ):
            if problems:
                lines.append(f"  {len(problems)} {title}:")
                lines += [f"    {problem}" for problem in problems[:_SHOWN]]
                if len(problems) > _SHOWN:
                    lines.append(f"    ... and {len(problems) - _SHOWN} more")
        super().__init__("\n".join(lines))

    @property
    def count(self) -> int:
        """How many problems there are."""
        return sum(map(len, (self.unused, self.unfilled, self.ambiguous, self.misfits)))


class NotFiniteError(InputError):
    """A network's result that holds NaN or infinity."""


class RunError(RuntimeError):
    """What was asked for was right, but it could not be finished. Commands exit with code 1."""


class DivergedError(RunError):
    """Training met losses that are not finite."""


class StorageError(RunError):
    """Something could not be written whole."""


class WorkerDiedError(RunError):
    """A process that prepares training data is gone."""


# What helps where a training step has too little memory.
_SMALLER_STEPS = (
    "Lower --data.batch-size, --data.crop or --model.width; or the same step with less: "
    "--optimizer.accumulate, --optimizer.remat."
)


def explain(error: BaseException, *, less_memory: str = _SMALLER_STEPS) -> tuple[int, str] | None:
    """Exit code and message of an error that needs no traceback; None for any other.

    Args:
      error: what a command ended with.
      less_memory: what to do where memory was too little.
    """
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, RunError):
        return 1, str(error)
    if no_room(error):
        return 1, f"can't write: {error}. Make room and run it again."
    if out_of_memory(error):
        reason = (str(error).splitlines() or ["MemoryError"])[0][:200]
        return 1, f"not enough memory ({reason}). {less_memory}"
    return None


def exit_code(program: str, work: Callable[[], int], *, less_memory: str = _SMALLER_STEPS) -> int:
    """The exit code of `work()`; errors that `explain` knows are printed in one sentence.

    Where whoever read the output has left (a closed pipe), the rest goes nowhere and the code is 1.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        return 1
    except Exception as error:
        explained = explain(error, less_memory=less_memory)
        if explained is None:
            raise
        code, message = explained
        with contextlib.suppress(OSError):  # nobody may read the errors, either
            print(f"{program}: {message}", file=sys.stderr, flush=True)
        return code


def _to_nowhere(stream: TextIO) -> None:
    # What is still in its buffer would fail once more when Python ends.
    with contextlib.suppress(OSError, ValueError):  # a test's stream is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_SHOWN = 10  # entries of each kind that an error message lists
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def no_room(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that a disk takes no more."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        error = error.__cause__
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or JAX means that there was not enough memory."""
    # JAX has one class for all that goes wrong on a device; the status stands in its message.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" where one of `known` is close to `name`, or an empty string."""
    known = list(known)
    holding = [word for word in known if len(name) > 2 and name in word]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or holding[:1]
    return f" Did you mean {close[0]!r}?" if close else ""
