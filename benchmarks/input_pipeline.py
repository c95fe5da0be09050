"""How many training crops a second the input pipeline makes, and how many a training step eats.

    python -m benchmarks.input_pipeline                       # about four minutes
    python -m benchmarks.input_pipeline --presets quick --workers 0 2

For the batches of every preset: from PNG and JPEG files that are decoded every time, and from the
cache of decoded pictures; with threads and with worker processes. The pictures are the bundled
photographs (JPEG, longer side 512 pixels) in array_record files, and the same as a folder of PNG
files, as in training. Crops stay on the host; each figure is the median of three measurements.

The training step of the same preset is timed in the same run, by itself. Presets meant for an
accelerator (bfloat16) are timed on an accelerator only; elsewhere the table says how many steps a
second the pipeline would allow. A ratio above 1 means that the step never waits, as long as both
have processors of their own.

Prints a table and writes benchmarks/results/input_pipeline-DEVICE-jax-RELEASE.json.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks import timing
from sa_flax.config import PRESETS, Config
from sa_flax.data.builders import PHOTOGRAPHS, open_splits
from sa_flax.data.pipeline import Batches, Pictures, training_batches
from sa_flax.data.splits import Splits
from sa_flax.pictures import read_rgb8

SOURCES = ("PNG", "JPEG", "cache")


def worker_counts() -> list[int]:
    """0 (threads), then 1, 2, 4, ... worker processes, as many as there are processors to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [0, *(2**i for i in range((cores or 1).bit_length()))]


def open_sources(folder: Path) -> dict[str, Splits]:
    """The photographs, prepared as training has them, once as JPEG and once as PNG."""
    pngs = folder / "png"
    pngs.mkdir()
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        Image.fromarray(read_rgb8(path)).save(pngs / f"{path.stem}.png", compress_level=1)
    jpeg = open_splits("photographs", directory=str(folder))
    png = open_splits(str(pngs), directory=str(folder))
    return {"PNG": png, "JPEG": jpeg, "cache": jpeg}


def rate(take: Iterator, images: int, seconds: float) -> float:
    """Images a second: the median of three times that `seconds` are spent taking batches."""
    rates = []
    for _ in range(3):
        taken, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not taken:
            next(take)
            taken += images
        rates.append(taken / elapsed)
    return statistics.median(rates)


def open_batches(config: Config, source: str, splits: Splits, workers: int) -> Batches:
    """The batches of a preset from one source, warmed up: what can be in a cache is there."""
    pictures = Pictures(
        splits.train,
        channels=config.model.channels,
        cache_bytes=2**30 if source == "cache" else 0,
    )
    data = dataclasses.replace(config.data, workers=workers)
    batches = training_batches(pictures, data, seed=0)
    # Every worker has a cache of its own, and meets the pictures in an order of its own.
    epochs = 3 * max(workers, 1) if source == "cache" else 1
    for _ in range(1 + epochs * len(pictures) // data.batch_size):
        next(batches)
    return batches


def training_rate(config: Config, seconds: float) -> float | None:
    """Images a second that the training step takes in; None where it isn't meant for the device."""
    import jax
    import numpy as np

    from sa_flax.training.state import create_state, make_optimizer
    from sa_flax.training.steps import make_train_step

    if jax.default_backend() == "cpu" and config.dtype == "bfloat16":
        return None
    optimizer = make_optimizer(config.optimizer, config.steps)
    graphdef, state = create_state(config, optimizer)
    step = make_train_step(graphdef, optimizer, config)
    data, key = config.data, jax.random.key(0)
    shape = (data.batch_size, data.crop, data.crop, config.model.channels)
    clean = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = {"clean": jax.device_put(clean)}

    def steps() -> Iterator[None]:
        current = state
        while True:
            current, metrics = step(current, batch, key)
            jax.block_until_ready(metrics)
            yield

    running = steps()
    for _ in range(2):  # compiles
        next(running)
    return rate(running, data.batch_size, seconds)


def measure(
    presets: list[str], sources: list[str], workers: list[int], seconds: float
) -> list[dict]:
    """One row for each preset and source: images a second for each number of workers."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        opened = open_sources(Path(folder))
        for name in presets:
            config = PRESETS[name]
            shape = (config.data.batch_size, config.data.crop, config.model.channels)
            eaten = training_rate(config, seconds)
            for source in sources:
                rates = {}
                for count in workers:
                    batches = open_batches(config, source, opened[source], count)
                    rates[str(count)] = rate(batches, shape[0], seconds)
                    batches.close()
                best = max(rates.values())
                rows.append(
                    {
                        "preset": name,
                        "batch": shape[0],
                        "crop": shape[1],
                        "channels": shape[2],
                        "source": source,
                        "images_per_second_by_workers": rates,
                        "training_images_per_second": eaten,
                        "ratio": eaten and best / eaten,
                        "steps_per_second_allowed": best / shape[0],
                    }
                )
    return rows


def table(rows: list[dict]) -> str:
    """The rows as text; rates in images a second."""
    counts = list(rows[0]["images_per_second_by_workers"])
    heads = ["threads" if c == "0" else f"{c} worker{'s' * (c != '1')}" for c in counts]
    lines = [
        f"{'preset':<12}{'batch':>16}  {'source':<7}"
        + "".join(f"{head:>11}" for head in heads)
        + f"{'step eats':>11}{'ratio':>8}{'steps/s':>9}"
    ]
    for row in rows:
        batch = f"{row['batch']} x {row['crop']}² x {row['channels']}"
        rates = row["images_per_second_by_workers"].values()
        eaten, ratio = row["training_images_per_second"], row["ratio"]
        lines.append(
            f"{row['preset']:<12}{batch:>16}  {row['source']:<7}"
            + "".join(f"{r:>11,.0f}" for r in rates)
            + (f"{'-':>11}{'-':>8}" if eaten is None else f"{eaten:>11,.0f}{ratio:>8.1f}")
            + f"{row['steps_per_second_allowed']:>9,.1f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    from sa_flax.xla_flags import tune_cpu

    tune_cpu()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--workers", nargs="+", type=int, default=worker_counts())
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each is timed, thrice")
    options = parser.parse_args(arguments)

    load = os.getloadavg()[0]
    rows = measure(options.presets, options.sources, options.workers, options.seconds)
    print(f"{timing.device()}; load before: {load:.2f}; images a second\n\n{table(rows)}\n")
    print(
        "ratio: the fastest of the row to what the training step eats; steps/s: what it allows the "
        "step on any device"
    )
    results = {"seconds": options.seconds, "load_average_before": load, "rows": rows}
    print(timing.save("input_pipeline", results))


if __name__ == "__main__":
    main()
