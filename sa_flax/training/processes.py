"""Several processes that train together: how they start, and what they tell each other.

Each process owns some of the devices and reads its own share of every batch; process 0 alone
writes. With one process all of this does nothing.
"""

import contextlib
import multiprocessing
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from sa_flax.errors import InputError, StorageError, explain, out_of_memory
from sa_flax.training.lifeline import lifeline

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
_LONGEST_MESSAGE = 4000  # bytes
_LONGEST_WAIT = 300.0  # seconds for all processes to arrive
_leaving = threading.Lock()
_first_host: str | None = None  # the machine of process 0, where it was given


def check_coordinator(coordinator: str, num_processes: int, process_id: int) -> tuple[str, int]:
    """Host and port of HOST:PORT.

    Raises:
      InputError: where it is none, and for a number of processes or a process that can't be.
    """
    match = re.fullmatch(r"(.+):([0-9]+)", coordinator)
    host = match[1].strip("[]") if match else ""
    if match is None or not host or not 0 < int(match[2]) < 2**16:
        raise InputError(
            f"--coordinator must be HOST:PORT, the first process's machine and a free port there, "
            f"for example {host or coordinator.rstrip(':') or 'localhost'}:8476; got "
            f"{coordinator!r}."
        )
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise InputError(
            f"--process-id must be from 0 to {max(num_processes, 1) - 1}, below --num-processes "
            f"{num_processes}; got {process_id}."
        )
    return host, int(match[2])


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    longest_wait: float = _LONGEST_WAIT,
) -> None:
    """Joins the other processes, before anything is computed.

    Args:
      coordinator: HOST:PORT of process 0. Together with the other two it may be left out on TPU
        pods, under SLURM and under Open MPI, where JAX finds them.
      num_processes: how many processes there are.
      process_id: which of them this is, from 0.
      longest_wait: seconds for all of them to arrive.

    Raises:
      InputError: where the processes can't be found. Where they do not all arrive in time, or on a
        signal, the process ends with a message.
    """
    given = (coordinator, num_processes, process_id)
    if any(g is None for g in given) and any(g is not None for g in given):
        raise InputError(
            "give all of --coordinator HOST:PORT, --num-processes N and --process-id I, or none of "
            "them (on TPU pods, SLURM and Open MPI)."
        )
    if coordinator is not None and num_processes is not None and process_id is not None:
        global _first_host
        address = check_coordinator(coordinator, num_processes, process_id)
        _first_host = address[0]
        if process_id:
            _wait_for(address, longest_wait)
    # JAX waits deaf to signals: it may do so beside the thread that hears them.
    failures: list[BaseException] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                initialization_timeout=round(longest_wait) + 60,
            )
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    deadline = time.monotonic() + longest_wait
    try:
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(0.1)
    except KeyboardInterrupt:
        _leave(130, "interrupted")
    if thread.is_alive():
        _leave(
            2,
            f"--distributed: after {longest_wait:.0f} seconds not all of {num_processes or 'the'} "
            f"processes have met{f' at {coordinator}' if coordinator else ''}. Is that the machine "
            "of process 0, seen from everywhere, and do all of them run?",
        )
    if failures:
        reason = (str(failures[0]).splitlines() or [type(failures[0]).__name__])[0]
        raise InputError(
            f"--distributed: the processes did not find each other ({reason}). "
            "Give --coordinator HOST:PORT, --num-processes N and --process-id I, the first two the "
            "same for all."
        ) from failures[0]


def _wait_for(address: tuple[str, int], longest: float) -> None:
    """Waits until something listens at `address`.

    Raises:
      InputError: where nothing does within `longest` seconds.
    """
    host, port = address
    began, said, reason = time.monotonic(), False, ""
    while time.monotonic() - began < longest:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as error:  # not there yet: names of pods, for example, come late
            reason = error.strerror or str(error)
        if not said and time.monotonic() - began > 5:
            print(f"waiting for process 0 at {host}:{port} ({reason})", file=sys.stderr, flush=True)
            said = True
        time.sleep(0.3)
    raise InputError(
        f"--distributed: no process answers at {host}:{port} after {longest:.0f} seconds "
        f"({reason}). Check --coordinator: the machine of process 0, and a port that is open there."
    )


def _leave(code: int, message: str) -> NoReturn:
    """Ends the process with a message, whatever waits in other threads.

    The usual way out would wait for them, and for the other processes, which may not come.
    """
    if not _leaving.acquire(blocking=False):  # another thread has had the last word
        threading.Event().wait()
    print(f"train.py: {message}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    for child in multiprocessing.active_children():  # those that prepare data
        child.kill()
    os._exit(code)


@contextlib.contextmanager
def noticing_the_lost(newest_checkpoint: Callable[[], str]) -> Iterator[None]:
    """Inside, the end of another process ends this one with a sentence and code 1.

    Args:
      newest_checkpoint: says what there is to go on from.
    """
    if jax.process_count() == 1:
        yield
        return
    index = jax.process_index()

    def lost(who: str, reason: str = "") -> NoReturn:
        _leave(
            1,
            f"process {index} has lost {who} of this run{reason}. {newest_checkpoint()} The same "
            "command, for all processes, goes on from there.",
        )

    with lifeline(tell_all, index=index, host=_first_host, lost=lost, alone=_is_met_by_one):
        try:
            yield
        except Exception as error:
            # What operations over several processes fail with has no class of its own.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, jax.errors.JaxRuntimeError):
                cause = cause.__cause__
            if cause is None or out_of_memory(cause):
                error.__dict__.setdefault(_MET_BY, "one")
                raise
            time.sleep(1)  # the lifeline knows who it was
            lost("another process", f" ({(str(cause).splitlines() or [''])[0][:200]})")
        except KeyboardInterrupt as error:
            error.__dict__[_MET_BY] = "one"
            raise


@contextlib.contextmanager
def leaving_alone() -> Iterator[None]:
    """An error that this process alone has met ends it, with its message, when it comes out.

    Python's usual way out would wait for the others, which have ended, for five minutes.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not _is_met_by_one(error):
            raise
        explained = (130, "interrupted") if isinstance(error, KeyboardInterrupt) else explain(error)
        if explained is None:
            traceback.print_exception(error)
            explained = 1, f"process {jax.process_index()} of this run has ended by this error."
        _leave(*explained)


_MET_BY = "met_by"  # of an error: by "all" processes, or, in the loop, by "one"


def _met_by_all(error: E) -> E:
    error.__dict__[_MET_BY] = "all"
    return error


def _is_met_by_one(error: BaseException) -> bool:
    return error.__dict__.get(_MET_BY) == "one"


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(place: str) -> None:
    """Waits until every process is at `place`, a name for this point of the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process. All must call this at the same step."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))


def check_alike(text: str, message: str) -> None:
    """Raises InputError with `message`, in all processes, where their `text`s are not the same."""
    if any_process(tell_all(text) != text):
        raise _met_by_all(InputError(message))


def tell_all(text: str) -> str:
    """What process 0 says, in every process (at most 4,000 bytes of UTF-8)."""
    if jax.process_count() == 1:
        return text
    buffer = np.zeros(_LONGEST_MESSAGE, np.uint8)
    if is_first():
        encoded = np.frombuffer(text.encode()[:_LONGEST_MESSAGE], np.uint8)
        buffer[: encoded.size] = encoded
    heard = np.asarray(multihost_utils.broadcast_one_to_all(buffer)).astype(np.uint8)
    return heard.tobytes().rstrip(b"\0").decode(errors="ignore")


def first(action: Callable[[], T]) -> T | None:
    """Runs `action` in process 0 alone, while the others wait; they get None.

    Raises:
      InputError, StorageError: in every process, where `action` raised one.
    """
    result, message = None, ""
    if is_first():
        try:
            result = action()
        except (InputError, StorageError) as error:
            if jax.process_count() == 1:
                raise
            message = f"{'?!'[isinstance(error, StorageError)]}{error}"
    message = tell_all(message)
    if message:
        raise _met_by_all((StorageError if message[0] == "!" else InputError)(message[1:]))
    return result


def all_or_none(action: Callable[[], object]) -> None:
    """Runs `action` in every process.

    Raises:
      InputError: in every process, where `action` raised one in any.
    """
    message = ""
    try:
        action()
    except InputError as error:
        if jax.process_count() == 1:
            raise
        message = str(error)
    if any_process(bool(message)):
        message = message or "another process of this run can't go on; it says why."
        raise _met_by_all(InputError(message))


def first_then_others(action: Callable[[], T]) -> T:
    """Runs `action` in process 0, then in the others: what it prepares is made once.

    Raises:
      InputError: in every process, where the first's `action` raised one.
    """
    result = first(action)
    return cast(T, result) if is_first() else action()
