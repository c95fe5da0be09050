"""Reading `.safetensors` files, which need no PyTorch: sizes first, and one error."""

import math
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sa_flax.errors import CheckpointError
from sa_flax.limits import LARGEST_CHECKPOINT
from sa_flax.models import sizes


def read_safetensors(
    path: Path, largest: int = LARGEST_CHECKPOINT, *, advice: str = ""
) -> dict[str, np.ndarray]:
    """Names and arrays of a file that may take at most `largest` bytes of memory.

    Args:
      path, largest: see above.
      advice: what the error says of a larger file; by default how to raise the limit of a port.

    Raises:
      CheckpointError: where it would take more, or is no such file, or damaged.
    """
    try:
        check_size(path, sizes.of_safetensors(path), largest, advice)
        return load_file(path)
    except CheckpointError:
        raise
    except MemoryError as error:
        raise _too_little_memory(path) from error
    except AttributeError as error:  # of NumPy, asked for a kind of numbers that it hasn't
        raise CheckpointError(
            f"{path}: holds numbers of a kind that NumPy lacks; save them as float16 or float32.\n"
            f"  The reader says: {one_line(error)}"
        ) from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: is no safetensors file, or is cut short or damaged.\n"
            f"  The reader says: {one_line(error)}"
        ) from error
    except BaseException as error:  # a panic of the reader's Rust code, which is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise _too_little_memory(path) from error


def _too_little_memory(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: could not be read into memory: is there as much free as its "
        f"{os.path.getsize(path) / 2**30:.1f} GiB?"
    )


def check_size(path: Path, size: int, largest: int, advice: str = "") -> None:
    """Raises CheckpointError for a file that would take more than `largest` bytes of memory."""
    if size > largest:
        advice = advice or (
            "If you trust it, raise the limit: `sa-flax port --largest "
            f"{math.ceil(size / 2**30)}`, or read_checkpoint(path, largest=...) in code."
        )
        raise CheckpointError(
            f"{path}: would take {size / 2**20:,.0f} MiB of memory, and the limit is "
            f"{largest / 2**20:,.0f} MiB. {advice}"
        )


def one_line(error: Exception, limit: int = 200) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
