"""Several processes that train together: how they start, and what they tell each other.

Each process owns some of the devices and reads its own share of every batch; process 0 alone
writes. With one process all of this does nothing.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from sa_flax.errors import InputError

T = TypeVar("T")
_LONGEST_MESSAGE = 4000  # bytes


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes, before anything is computed.

    Args:
      coordinator: HOST:PORT of process 0. Together with the other two it may be left out on TPU
        pods, under SLURM and under Open MPI, where JAX finds them.
      num_processes: how many processes there are.
      process_id: which of them this is, from 0.

    Raises:
      InputError: where the processes can't be found, or do not all arrive within five minutes.
    """
    given = (coordinator, num_processes, process_id)
    if any(g is None for g in given) and any(g is not None for g in given):
        raise InputError(
            "give all of --coordinator HOST:PORT, --num-processes N and --process-id I, or none of "
            "them (on TPU pods, SLURM and Open MPI)."
        )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed: the processes did not find each other ({str(error).splitlines()[0]}). "
            "Give --coordinator HOST:PORT, --num-processes N and --process-id I, the first two the "
            "same for all."
        ) from error


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
        raise InputError(message)


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
      InputError: in every process, where `action` raised one.
    """
    result, message = None, ""
    if is_first():
        try:
            result = action()
        except InputError as error:
            if jax.process_count() == 1:
                raise
            message = str(error)
    message = tell_all(message)
    if message:
        raise InputError(message)
    return result


def first_then_others(action: Callable[[], T]) -> T:
    """Runs `action` in process 0, then in the others: what it prepares is made once.

    Raises:
      InputError: in every process, where the first's `action` raised one.
    """
    result = first(action)
    return cast(T, result) if is_first() else action()
