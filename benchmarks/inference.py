"""What denoising a megapixel costs: the shipped networks beside non-local means.

    python -m benchmarks.inference
    python -m benchmarks.inference photo runs/quick --height 2000 --width 3000 --memory 1GB

Processor seconds of all threads for each megapixel of a colour picture with noise of sigma 25, 8
bits in and out, by `sa_flax.Denoiser` as people call it, but that no network hands the picture to
another, in turn with scikit-image's non-local means (patches of 5, distance 6) and, where
opencv-python-headless is installed, OpenCV's (7 and 21). Compiling is not counted. Prints a table
and writes benchmarks/results/inference-DEVICE-jax-RELEASE.json.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

import sa_flax
from benchmarks import timing
from benchmarks.large_pictures import picture
from sa_flax.xla_flags import is_bfloat16_fast, tune_cpu


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=sa_flax.list_pretrained())
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--memory", help="what Denoiser is given, e.g. 1GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=timing.RESULTS, help="folder of results")
    options = parser.parse_args(arguments)
    noisy, _ = picture(options.height, options.width, clean=False)
    runs = {}
    dtypes = ("float32", "bfloat16") if is_bfloat16_fast() else ("float32",)
    for name, dtype in itertools.product(options.networks, dtypes):
        denoiser = sa_flax.Denoiser.from_pretrained(name, dtype=dtype, memory=options.memory)
        denoiser.specialists = {}
        runs[f"{name}, {dtype}"] = lambda denoiser=denoiser: denoiser(noisy)
    runs |= classical(noisy)
    times = timing.interleaved(runs, rounds=options.rounds, seconds=0)
    megapixels = options.height * options.width / 1e6
    print(f"{'':24s}{'CPU-s / megapixel':>18s}{'wall':>8s}")
    for name, t in times.items():
        t["processor_s_per_megapixel"] = t["processor_ms"] / 1e3 / megapixels
        print(
            f"{name:24s}{t['processor_s_per_megapixel']:18.2f}"
            f"{t['median_ms'] / 1e3 / megapixels:8.2f}"
        )
    size = {"height": options.height, "width": options.width, "memory": options.memory}
    path = timing.save("inference", {**size, "results": times}, folder=options.output)
    print(f"\n{timing.device()}; written to {path}")


def classical(noisy: np.ndarray) -> dict:
    """Non-local means of scikit-image and of OpenCV, as `benchmarks.quality` takes them."""
    from sa_flax.inference.evaluate import non_local_means

    unit = noisy.astype(np.float32) / 255
    found = {"non-local means": lambda: non_local_means(unit, None)}
    try:
        import cv2
    except ImportError:
        return found
    found["OpenCV"] = lambda: cv2.fastNlMeansDenoisingColored(noisy, None, 25, 25, 7, 21)
    return found


if __name__ == "__main__":
    tune_cpu()  # XLA reads its options when the first array is made
    main()
