"""Interleaved timing, the name of the device, and result files."""

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(
    runs: dict[str, Callable[[], Any]], *, rounds: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Times each run once a round, in turn, so that what else the machine does falls on all alike.

    Args:
      runs: name -> function that computes and waits for its result; called twice to warm up.
      rounds: rounds to time, fewer (at least 5) where `seconds` have passed.
      seconds: time to spend, warming up not counted.

    Returns:
      name -> median and least wall time, and median processor time over all threads, in ms.
    """
    for run in runs.values():
        run()
        run()
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    end = time.monotonic() + seconds
    for turn in range(rounds):
        for name, run in runs.items():
            # Threads of one library that spin for a moment after their work would slow the next.
            time.sleep(0.003)
            start, used = time.perf_counter(), time.process_time()
            run()
            wall[name].append((time.perf_counter() - start) * 1e3)
            processor[name].append((time.process_time() - used) * 1e3)
        if turn >= 4 and time.monotonic() > end:
            break
    gc.enable()
    return {
        name: {
            "median_ms": statistics.median(wall[name]),
            "least_ms": min(wall[name]),
            "processor_ms": statistics.median(processor[name]),
            "rounds": len(wall[name]),
        }
        for name in runs
    }


def device() -> str:
    """What computes, e.g. "2-core CPU, AMD EPYC", or the name of the accelerator."""
    import jax

    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{first.device_kind} x {jax.device_count()}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{len(os.sched_getaffinity(0))}-core CPU, {model}"


def save(name: str, results: dict[str, Any], *, folder: Path | None = None) -> Path:
    """Writes results, device and versions to NAME-DEVICE-jax-RELEASE.json; returns its path."""
    import jax

    versions = {}
    for package in ("jax", "jaxlib", "flax", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    record = {
        "device": device(),
        "python": platform.python_version(),
        "versions": versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load_average": os.getloadavg()[0],
        **results,
    }
    folder = RESULTS if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    where = jax.default_backend()
    if where == "cpu":
        where = f"cpu-{len(os.sched_getaffinity(0))}-core"
    release = ".".join(jax.__version__.split(".")[:2])
    path = folder / f"{name}-{where}-jax-{release}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path
