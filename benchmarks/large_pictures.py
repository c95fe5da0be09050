"""Pictures of 24 megapixels and of many sizes: memory, time, seams.

    python -m benchmarks.large_pictures NETWORK            # a run's or a network's directory

Each figure comes from a process of its own, on a picture made by a formula: smooth shading, edges
of all directions, texture, and Gaussian noise of sigma 25. Prints a table and writes
benchmarks/results/large_pictures-DEVICE-jax-RELEASE.json.

  large    24 megapixels within --memory: CPU-seconds a megapixel, highest memory
  whole    6 megapixels at once, as before there were tiles: CPU-seconds a megapixel, memory
  seams    6 megapixels in small tiles against the whole: along seams, elsewhere, and in PSNR
  sizes    so many pictures of as many sizes, against pictures of one size
  start    from the start of Python to the first result of a small picture, twice
"""

import argparse
import json
import resource
import subprocess
import sys
import time

TASKS = ("large", "whole", "seams", "sizes", "start")


def picture(height, width, *, clean=True):
    """(noisy uint8, clean float32), (height, width, 3); None for the clean one if not asked for."""
    import numpy as np

    rng = np.random.default_rng(0)
    noisy = np.empty((height, width, 3), np.uint8)
    kept = np.empty((height, width, 3), np.float32) if clean else None
    x = np.arange(width, dtype=np.float32)
    for first in range(0, height, 256):
        y = np.arange(first, min(first + 256, height), dtype=np.float32)[:, None]
        shading = 0.5 + 0.25 * np.sin(x / 611 + 1) * np.cos(y / 433)
        edges = 0.15 * np.sign(
            np.sin((x * x / 9000 + y * 3) / 97) * np.sin((y * y / 7000 - x) / 71)
        )
        texture = 0.08 * np.sin(x / 2.1 + y / 3.7) * np.sin(y / 1.9) * (np.sin(x / 301) > 0)
        tints = np.array([1.0, 0.9, 0.75], np.float32)
        part = np.clip((shading + edges + texture)[..., None] * tints, 0, 1)
        if kept is not None:
            kept[first : first + 256] = part
        part = part + rng.standard_normal(part.shape, np.float32) * np.float32(25 / 255)
        noisy[first : first + 256] = np.round(np.clip(part, 0, 1) * 255)
    return noisy, kept


def load(network, **options):
    from sa_flax.xla_flags import keep_compiled, tune_cpu

    tune_cpu()
    keep_compiled()
    import sa_flax

    return sa_flax.Denoiser.from_pretrained(network, **options)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def large(network, memory, height=4000, width=6000):
    denoiser = load(network, memory=memory)
    noisy, _ = picture(height, width, clean=False)
    before, wall = time.process_time(), time.monotonic()
    denoiser(noisy)
    return {
        "cpu_s_per_megapixel": (time.process_time() - before) / (height * width / 1e6),
        "wall_s": time.monotonic() - wall,
        "peak_mb": peak_mb(),
    }


def whole(network, memory, height=2000, width=3000):
    import numpy as np

    denoiser = load(network)
    noisy, _ = picture(height, width, clean=False)
    x = (noisy / np.float32(255))[None]
    engine = denoiser._engine
    before = time.process_time()
    np.asarray(engine._whole(denoiser.params, x, None))
    return {
        "cpu_s_per_megapixel": (time.process_time() - before) / (height * width / 1e6),
        "peak_mb": peak_mb(),
    }


def seams(network, memory, height=2000, width=3000):
    import numpy as np

    from sa_flax.inference import tiling

    denoiser = load(network)
    noisy, clean = picture(height, width)
    engine = denoiser._engine
    at_once = np.asarray(engine._whole(denoiser.params, (noisy / np.float32(255))[None], None))[0]
    at_once = np.clip(at_once, 0, 1)
    tiling._ENOUGH = 512 * 512
    plan = engine._planner(0).plan(height, width, room=1e12, per_pixel=1)
    tiled = denoiser(noisy / np.float32(255))
    off = np.abs(tiled - at_once).max(axis=-1)
    beside = np.zeros((height, width), bool)
    for span in plan.rows[1:]:
        beside[span.low - 2 : span.high + 2] = True
    for span in plan.columns[1:]:
        beside[:, span.low - 2 : span.high + 2] = True

    def psnr(x):
        return float(-10 * np.log10(np.mean((x - clean) ** 2, dtype=np.float64)))

    return {
        "tiles": plan.count,
        "largest_difference_at_seams": float(off[beside].max()),
        "largest_difference_elsewhere": float(off[~beside].max()),
        "mean_difference_at_seams": float(off[beside].mean()),
        "mean_difference_elsewhere": float(off[~beside].mean()),
        "psnr_tiled_minus_whole_db": psnr(tiled) - psnr(at_once),
    }


def sizes(network, memory, count=100):
    import numpy as np

    results = {}
    for kind in ("one size", "sizes"):
        denoiser = load(network)
        rng = np.random.default_rng(0)
        before = time.process_time()
        for index in range(count):
            # As many pixels in all, on one size as on a hundred.
            shape = (128 + index, 160 + 2 * index % 37) if kind == "sizes" else (178, 178)
            denoiser(rng.integers(0, 256, (*shape, 3), np.uint8))
        results[f"{kind}, cpu_s"] = time.process_time() - before
        results[f"{kind}, compiled"] = denoiser._engine._on_tile._cache_size()
    return results


def start(network, memory):
    import numpy as np

    denoiser = load(network)
    denoiser(np.zeros((128, 160, 3), np.uint8))
    return {}


def _cpu_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--alone", action="store_true", help="one task, in this process")
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(globals()[args.tasks[0]](args.network, args.memory)))
        return
    results = {}
    for task in args.tasks:
        command = [sys.executable, "-m", "benchmarks.large_pictures", args.network, "--alone"]
        for turn in range(2 if task == "start" else 1):
            began, used = time.monotonic(), _cpu_of_children()
            done = subprocess.run(
                [*command, "--memory", args.memory, "--tasks", task],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            results[task] = json.loads(done.stdout.splitlines()[-1])
            if task == "start":
                wall, cpu = time.monotonic() - began, _cpu_of_children() - used
                results[task] = {"wall_s": wall, "cpu_s": cpu, "turn": turn + 1}
            print(task, json.dumps(results[task]), flush=True)
    from benchmarks.timing import save
    from sa_flax.xla_flags import tune_cpu

    tune_cpu()  # as each task did: it is noted with the results
    print(save("large_pictures", {"network": "a 24/48/96/192 U-Net", "results": results}))


if __name__ == "__main__":
    main()
