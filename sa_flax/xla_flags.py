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

# Convolutions of oneDNN. A whole picture takes 0.83 of the time in float32 where the processor
# multiplies bfloat16, and 0.74 to 0.8 on one with AVX2 alone, where a training step takes as long
# or a tenth less (on two other EPYCs once 0.85 and 1.08). In bfloat16, which without it gains
# nothing, a picture takes 0.46.
_ONEDNN = {"--xla_cpu_experimental_onednn_custom_call": "true"}
_ONEDNN_RELEASES = ((0, 12),)

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
    release = _release()
    options = _OPTIONS.get(release, {})
    if release in _ONEDNN_RELEASES and _has("avx2"):
        options = {**options, **_ONEDNN}
    flags = os.environ.get("XLA_FLAGS", "").split()
    present = {flag.partition("=")[0] for flag in flags}
    added = [f"{name}={value}" for name, value in options.items() if name not in present]
    if added:
        os.environ["XLA_FLAGS"] = " ".join(flags + added)
    return bool(added)


def is_bfloat16_fast() -> bool:
    """Whether convolutions on this CPU are faster in bfloat16 than in float32.

    So it is where `tune_cpu` (or the user) has XLA take oneDNN's, and the processor multiplies
    bfloat16 itself: AVX-512 BF16 or AMX, which AMD has since EPYC 9004 (Zen 4) and Intel in most
    Xeons since the fourth generation. Says nothing of other kinds of devices.
    """
    ((option, on),) = _ONEDNN.items()
    chosen = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if option in flag]
    return bool(
        chosen
        and chosen[-1] == f"{option}={on}"
        and _release() in _ONEDNN_RELEASES
        and (_has("avx512_bf16") or _has("amx_bf16"))
    )


def _has(feature: str) -> bool:
    """Whether the processor has it, as Linux calls it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(rf"\b{feature}\b", text) is not None


def keep_compiled() -> Path | None:
    """Keeps what XLA compiles on disk, so that the next start need not compile it again.

    In the user's cache folder ($XDG_CACHE_HOME, else ~/.cache) under sa_flax/xla, in a folder for
    each kind of processor and release of jaxlib: XLA loads code for another processor with no more
    than a line in its log. At most 512 MB, the longest unused goes first; folders that nothing has
    used for three months are removed. Call it before anything is compiled.

    Off with the environment variable SA_FLAX_COMPILATION_CACHE=off; and where the user has set
    JAX_COMPILATION_CACHE_DIR, which JAX then goes by, or the folder can't be written or is
    another's: nothing fails for the want of a cache.

    Returns:
      The folder; None where nothing is kept by this.
    """
    if os.environ.get(_SWITCH, "").strip().lower() in ("off", "0", "no", "false"):
        return None
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):  # no home directory
        return None
    every = Path(base) / "sa_flax" / "xla"
    folder = every / _machine()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Code is loaded from it: it must be nobody else's.
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            return None
        os.utime(folder)
        probe = folder / f".{os.getpid()}.probe"
        probe.write_bytes(b"")
        probe.unlink()
        _tidy(every, folder)
    except OSError:
        return None
    # A damaged entry is compiled again, which is nothing to tell a user.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": 512 * 2**20,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    # On loading, jaxlib 0.10.1 logs pages about features that XLA itself has put among the
    # processor's (prefer-no-gather). The folder is this processor's own.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name, value in settings.items():
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            os.environ.setdefault(name.upper(), str(value))
    return folder


_SWITCH = "SA_FLAX_COMPILATION_CACHE"


def _machine() -> str:
    """A name for what compiled code depends on: the processor and its features, jaxlib, system."""
    import hashlib

    try:
        text = (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        )
        # Frequencies and the like change.
        facts = [
            line
            for line in text.splitlines()
            if re.match(r"(model|vendor|flags|Features|CPU)", line)
        ]
    except OSError:
        import platform

        facts = [platform.machine(), platform.processor(), platform.node()]
    facts += [sys.platform, str(_jaxlib_version())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _tidy(every: Path, folder: Path) -> None:
    """Removes entries that were never finished, and other machines' folders long unused."""
    import time

    now = time.time()
    for entry in folder.glob("*-cache"):
        # JAX writes the time of use last. One that is being written has a minute.
        finished = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
        if not finished.exists() and now - entry.stat().st_mtime > 60:
            entry.unlink(missing_ok=True)
    for other in every.iterdir():
        unused = now - other.stat().st_mtime > 90 * 86400
        if other != folder and unused and re.fullmatch(r"[0-9a-f]{16}", other.name):
            import shutil

            shutil.rmtree(other, ignore_errors=True)


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
    """Whether `sa-flax`, `python -m sa_flax...`, the project's train.py or a benchmark runs."""
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    # While Python still looks for the module of -m, which imports its package first.
    if program.name == "-m":
        return "sa_flax" in " ".join(sys.orig_argv[:8])
    place = program.absolute()
    return (
        program.stem == "sa-flax"
        or place == _PROJECT / "train.py"
        or _PROJECT / "benchmarks" in place.parents
    )


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


def _release() -> tuple[int, ...]:
    """The installed jaxlib's release, e.g. (0, 12); () where there is none."""
    numbers = re.match(r"(\d+)\.(\d+)", _jaxlib_version() or "")
    return tuple(map(int, numbers.groups())) if numbers else ()


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
