"""XLA's options for the CPU, set before JAX starts. Imports neither JAX nor anything else heavy."""

import importlib.metadata
import os
import re

_YNN = "--xla_cpu_experimental_ynn_fusion_type"
# Releases of jaxlib in which the option was tried; others may not know it and would abort.
_KNOWN_RELEASES = ((0, 10), (0, 11), (0, 12))


def tune_cpu() -> bool:
    """Makes XLA compile CPU convolutions itself, instead of handing them to YNNPACK.

    Adds one option to the environment variable XLA_FLAGS, which JAX reads when it starts its first
    device: call this before anything is computed, best before JAX is imported. Other kinds of
    devices are not affected. What it gives is in benchmarks/results.

    Does nothing where XLA_FLAGS already sets the option, or where the installed jaxlib is not a
    release that was seen to accept it: an unknown option aborts the process.

    Returns:
      Whether the option was added.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _YNN in flags or _jaxlib_release() not in _KNOWN_RELEASES:
        return False
    option = f"{_YNN}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    os.environ["XLA_FLAGS"] = f"{flags} {option}".strip()
    return True


def _jaxlib_release() -> tuple[int, ...] | None:
    """The first two numbers of the installed jaxlib's version, None where there is none."""
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else None
