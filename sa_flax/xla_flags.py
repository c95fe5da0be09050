"""How JAX computes on CPUs, settled before it starts. Imports neither JAX nor much else."""

import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path

_YNN = "--xla_cpu_experimental_ynn_fusion_type"
# XLA compiles convolutions itself, instead of handing them to YNNPACK: 1.6x for a U-Net's step.
_OWN_CONVOLUTIONS = "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
# And sums. What YNNPACK makes of a small product under a sum is wrong in jaxlib 0.10.2 above 32,768
# rows (jax-ml/jax#39103), and sums over arrays of seven axes and more crash in it (#40412), and on
# some processors in 0.11.0 (#39257). It costs nothing that could be measured in a training step.
_OWN_SUMS = "-LIBRARY_FUSION_TYPE_REDUCE"
# Vectors of 512 bits where the processor has them; XLA's own choice is 256.
_WIDE = {"--xla_cpu_prefer_vector_width": "512"}

# Options for the releases of jaxlib in which they were tried; others may not know one and would
# abort. From 0.12 sums are right, and in YNNPACK more exact and faster.
_OPTIONS: dict[tuple[int, ...], dict[str, str]] = {
    (0, 10): {_YNN: f"{_OWN_CONVOLUTIONS},{_OWN_SUMS}", **_WIDE},
    (0, 11): {_YNN: f"{_OWN_CONVOLUTIONS},{_OWN_SUMS}", **_WIDE},
    (0, 12): {_YNN: _OWN_CONVOLUTIONS, **_WIDE},
}
# Releases that compute wrong numbers on CPUs unless sums are kept from YNNPACK.
_WRONG = ("0.10.2",)


def tune_cpu() -> bool:
    """Options for XLA on CPUs, and memory that is kept instead of returned and asked for anew.

    Adds options to the environment variable XLA_FLAGS, which JAX reads when it starts its first
    device: call this before anything is computed, best before JAX is imported. Other kinds of
    devices are not affected. An option that XLA_FLAGS already sets stays as it is, and nothing is
    added where the installed jaxlib is not a release that was seen to accept the options: an
    unknown one aborts the process. With them every release that is known computes right numbers,
    jaxlib 0.10.2 too.

    With glibc, also makes `malloc` keep large blocks in the process. By default every array over
    32 MiB is new memory, whose pages the kernel fills with zeros one by one: for a copy of a 64 MiB
    map that is nine tenths of the time. The process's memory then stays at its peak.

    Returns:
      Whether an option was added.
    """
    _keep_large_blocks()
    numbers = re.match(r"(\d+)\.(\d+)", _jaxlib_version() or "")
    options = _OPTIONS.get(tuple(map(int, numbers.groups())), {}) if numbers else {}
    flags = os.environ.get("XLA_FLAGS", "").split()
    present = {flag.partition("=")[0] for flag in flags}
    added = [f"{name}={value}" for name, value in options.items() if name not in present]
    if added:
        os.environ["XLA_FLAGS"] = " ".join(flags + added)
    return bool(added)


def warn_of_wrong_numbers() -> None:
    """Warns (RuntimeWarning) where the installed jaxlib computes wrong numbers on CPUs.

    Not where XLA_FLAGS averts it, and not in this package's own commands, which call `tune_cpu`
    before they compute anything.
    """
    version = _jaxlib_version()
    if version not in _WRONG or _sums_are_xlas_own() or _is_own_command():
        return
    warnings.warn(
        f"jaxlib {version} computes wrong numbers on CPUs: under jax.jit, sums over small matrix "
        "products of more than 32,768 rows (https://github.com/jax-ml/jax/issues/39103). Install "
        f"another release, pip install 'jax!={version}' 'jaxlib!={version}'; or, before anything "
        "is computed, call sa_flax.xla_flags.tune_cpu() or set the environment variable "
        f"XLA_FLAGS={_YNN}={_OWN_SUMS}.",
        RuntimeWarning,
        stacklevel=3,
    )


def _sums_are_xlas_own() -> bool:
    """Whether XLA_FLAGS keeps sums from YNNPACK: leaves them out, or names other kinds only."""
    chosen = None
    for flag in os.environ.get("XLA_FLAGS", "").split():
        name, _, value = flag.partition("=")
        chosen = value if name == _YNN else chosen  # the last one holds
    if chosen is None:
        return False
    kinds = [kind.strip().lower() for kind in chosen.split(",") if kind.strip()]
    sums = [kind for kind in kinds if kind.removeprefix("-").endswith(("reduce", "all"))]
    if any(kind.startswith("-") for kind in kinds):  # what is taken away from XLA's own choice
        return any(kind.startswith("-") for kind in sums)
    return not sums


def _is_own_command() -> bool:
    """Whether `sa-flax`, `python -m sa_flax...` or the project's train.py is what runs."""
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    # While Python still looks for the module of -m, which imports its package first.
    if program.name == "-m":
        return "sa_flax" in " ".join(sys.orig_argv[:8])
    return program.stem == "sa-flax" or program.absolute() == _PROJECT / "train.py"


_PROJECT = Path(__file__).absolute().parents[1]


def _keep_large_blocks() -> None:
    import ctypes
    import platform

    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8  # names and values of malloc.h
    libc = ctypes.CDLL(None)
    # XLA allocates in its own threads, whose arenas hold 64 MiB at most: one arena for all.
    libc.mallopt(m_arena_max, 1)
    libc.mallopt(m_mmap_threshold, 2**30)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def _jaxlib_version() -> str | None:
    """The installed jaxlib's version, None where there is none. Imports nothing of it."""
    found = importlib.util.find_spec("jaxlib")
    if found is not None and found.origin:
        # Twenty times as fast as the metadata, and `import sa_flax` asks.
        try:
            text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
        except OSError:
            text = ""
        if release := re.search(r"^_release_version\b[^=]*= *['\"]([^'\"]+)['\"]", text, re.M):
            return release[1]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("jaxlib")
    except PackageNotFoundError:
        return None
