"""XLA's options for the CPU, set before JAX starts. Imports nothing heavy, JAX least of all."""

import ctypes
import importlib.metadata
import os
import platform
import re

# Releases of jaxlib in which the options were tried; others may not know one and would abort.
_KNOWN_RELEASES = ((0, 10), (0, 11), (0, 12))
_OPTIONS = {
    # XLA compiles convolutions itself, instead of handing them to YNNPACK.
    "--xla_cpu_experimental_ynn_fusion_type": "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    # Vectors of 512 bits where the processor has them; XLA's own choice is 256.
    "--xla_cpu_prefer_vector_width": "512",
}


def tune_cpu() -> bool:
    """Options for XLA on CPUs, and memory that is kept instead of returned and asked for anew.

    Adds options to the environment variable XLA_FLAGS, which JAX reads when it starts its first
    device: call this before anything is computed, best before JAX is imported. Other kinds of
    devices are not affected. An option that XLA_FLAGS already sets stays as it is, and nothing is
    added where the installed jaxlib is not a release that was seen to accept the options: an
    unknown one aborts the process.

    With glibc, also makes `malloc` keep large blocks in the process. By default every array over
    32 MiB is new memory, whose pages the kernel fills with zeros one by one: for a copy of a 64 MiB
    map that is nine tenths of the time. The process's memory then stays at its peak.

    Returns:
      Whether an option was added.
    """
    _keep_large_blocks()
    if _jaxlib_release() not in _KNOWN_RELEASES:
        return False
    flags = os.environ.get("XLA_FLAGS", "").split()
    present = {flag.partition("=")[0] for flag in flags}
    added = [f"{name}={value}" for name, value in _OPTIONS.items() if name not in present]
    if added:
        os.environ["XLA_FLAGS"] = " ".join(flags + added)
    return bool(added)


def _keep_large_blocks() -> None:
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8  # names and values of malloc.h
    libc = ctypes.CDLL(None)
    # XLA allocates in its own threads, whose arenas hold 64 MiB at most: one arena for all.
    libc.mallopt(m_arena_max, 1)
    libc.mallopt(m_mmap_threshold, 2**30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def _jaxlib_release() -> tuple[int, ...] | None:
    """The first two numbers of the installed jaxlib's version, None where there is none."""
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else None
