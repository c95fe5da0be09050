"""How well networks denoise, beside non-local means, OpenCV and BM3D: PSNR against processor time.

    python -m benchmarks.quality --data DIR                      # the shipped networks
    python -m benchmarks.quality --data DIR runs/quick --only cbsd68 bsd68
    python -m benchmarks.quality --plot                          # from the JSON alone

DIR holds the sets, none of which comes with this project; a set that is not there is left out:

    DIR/cbsd68/*.png (or bsds500/val/*.jpg with bsds500/cbsd68_ids.txt)   colour, published protocol
    DIR/bsd68/*.png, DIR/set12/*.png                                      gray, published protocol
    DIR/bsds500/test/*.jpg, the third fifty  does a network leave alone what is no noise?
    DIR/polyu100/*_real.JPG with *_mean.JPG      real noise, clean partners; changed besides

Without --data only the six bundled test photographs are measured. Each set is measured on what it
is for: the published white noise, and what people's pictures have. OpenCV's and BM3D's figures need
`pip install opencv-python-headless bm3d` (BM3D's licence excludes commercial use).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.printed import scanned
from benchmarks.raw import through_raw
from sa_flax.pictures import read_rgb8
from sa_flax.xla_flags import tune_cpu

RESULTS = Path(__file__).parent / "results" / "quality.json"
# The sets of gray pictures.
GRAY = ("photographs-gray", "bsd68", "set12")
Method = Callable[[np.ndarray, float | None], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One picture to denoise: (H, W, C) float32, noisy and clean; sigma in [0, 1] where known."""

    noisy: np.ndarray
    clean: np.ndarray
    sigma: float | None = None


def cases_of(files: list[Path], kind: str, channels: int) -> Iterator[Case]:
    """Each picture with its noise: "sigma 25", "shared 25", "blurred 25", "jpeg 25", "clipped 25",
    "clean", "camera", "resized 0.75" (a camera's, and resized by that since), "raw 0.001" and
    "printed 5" (see benchmarks.raw and .printed; mosaic and dots are in the clean partner, too)."""
    import jax

    from sa_flax.functional.jpeg import jpeg_compress
    from sa_flax.inference.evaluate import noisy_version
    from sa_flax.noise import Camera, Correlated, Gaussian

    name, _, level = kind.partition(" ")
    made = {"raw": through_raw, "printed": scanned}.get(name)
    sigma = 0.0 if name == "resized" or made else float(level or 0)
    # As it was when all methods were measured; "raw" has colours that go by green.
    by_camera = Camera(mosaic=0.6, by_difference=0, contrast=1, smoothing=0.6)
    noise = {
        "shared": Correlated((sigma, sigma), (0, 0), (0, 0), shared=1),
        "blurred": Correlated((sigma, sigma), (0.8, 0.8), (0.8, 0.8), shared=0),
        "camera": by_camera,
        "resized": by_camera,
        "clipped": Gaussian(sigma, clip=True),
    }.get(name, Gaussian(sigma))
    compress = jax.jit(jpeg_compress)
    for index, file in enumerate(files):
        picture = read_rgb8(file)
        clean = picture.astype(np.float32) / 255
        if channels == 1:
            clean = (
                np.round(clean @ [0.299, 0.587, 0.114] * 255)[..., None].astype(np.float32) / 255
            )
        if name == "clean":
            yield Case(clean, clean)
            continue
        if made:
            yield Case(*made(clean, float(level), index))
            continue
        noisy, told = noisy_version(clean, noise, seed=0, index=index)
        if name == "jpeg":
            noisy = np.asarray(compress(noisy[None], 90.0))[0]
        if name == "resized":
            noisy, clean = (_resized(x, float(level)) for x in (noisy, clean))
        yield Case(noisy, clean, told)


def _resized(x: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) in [0, 1], in 8 bits and resized, bicubic, as programs do."""
    picture = Image.fromarray(np.uint8(np.round(255 * np.clip(x, 0, 1))))
    size = round(factor * picture.width), round(factor * picture.height)
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float32) / 255


def black_and_white(kind: str) -> Iterator[Case]:
    """Squares of 64 x 64, black and white, with clipped noise: its mean is off in both."""
    from sa_flax.inference.evaluate import noisy_version
    from sa_flax.noise import Gaussian

    squares = np.indices((256, 256)) // 64
    clean = np.repeat(np.float32(squares.sum(0) % 2)[..., None], 3, axis=-1)
    noise = Gaussian(float(kind.split()[1]), clip=True)
    yield Case(noisy_version(clean, noise, seed=0, index=0)[0], clean)


# What is done to both pictures of a pair of real noise; "cropped": JPEG's blocks begin elsewhere.
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "real": lambda x: x,
    "cropped": lambda x: x[3:, 5:],
    **{f"resized {factor}": lambda x, f=factor: _resized(x, f) for factor in (0.5, 0.75)},
}


def pairs(folder: Path, change: str) -> Iterator[Case]:
    """Real noise: NAME_real.* beside NAME_mean.*, changed."""
    for file in sorted(folder.glob("*_real.*")):
        partner = next(folder.glob(file.name.replace("_real.", "_mean.").split(".")[0] + ".*"))
        noisy, clean = (read_rgb8(path).astype(np.float32) / 255 for path in (file, partner))
        noisy, clean = (CHANGES[change](x) for x in (noisy, clean))
        yield Case(noisy, clean)


def held_out() -> list[Path]:
    """The bundled photographs that no network has been trained on."""
    from sa_flax.data.builders import PHOTOGRAPHS

    lines = (PHOTOGRAPHS / "LICENSES.tsv").read_text().splitlines()
    return [PHOTOGRAPHS / row.split("\t")[0] for row in lines if row.split("\t")[1] == "test"]


def sets(data: Path | None) -> dict[str, Callable[[], Iterator[Case]]]:
    """What is measured, by "set: noise"."""
    bundled = held_out()
    found: dict[str, tuple[list[Path], int, tuple[str, ...]]] = {}
    levels = ("sigma 15", "sigma 25", "sigma 50")
    people = ("shared 25", "blurred 25", "jpeg 25", "clipped 25", "resized 0.75", "camera", "clean")
    raw = ("raw 0.0001", "raw 0.001", "raw 0.01")
    printed = ("printed 3.5", "printed 5", "printed 8")
    found["photographs"] = (bundled, 3, (*levels, *raw, *printed, *people))
    found["photographs-gray"] = (bundled, 1, ("sigma 25", "clean"))
    if data is not None:
        ids = data / "bsds500" / "cbsd68_ids.txt"
        colour = sorted((data / "cbsd68").glob("*.png"))
        if not colour and ids.is_file():
            colour = [data / "bsds500" / "val" / f"{i}.jpg" for i in ids.read_text().split()]
        found["cbsd68"] = (colour, 3, levels)
        # Not the first hundred, whose failures were looked at when `finish` was written.
        found["bsds"] = (
            sorted((data / "bsds500" / "test").glob("*.jpg"))[100:150],
            3,
            (raw[0], *people[-2:]),
        )
        for name in ("bsd68", "set12"):
            found[name] = (sorted((data / name).glob("*.png")), 1, levels)
    measured: dict[str, Callable[[], Iterator[Case]]] = {}
    for name, (files, channels, kinds) in found.items():
        for kind in kinds if files else ():
            measured[f"{name}: {kind}"] = lambda f=files, k=kind, c=channels: cases_of(f, k, c)
    for kind in ("clipped 15", "clipped 25", "clipped 50"):
        measured[f"black and white: {kind}"] = lambda k=kind: black_and_white(k)
    if data is not None and (data / "polyu100").is_dir():
        for change in CHANGES:
            measured[f"polyu100: {change}"] = lambda c=change: pairs(data / "polyu100", c)
    return measured


def peers() -> dict[str, Method]:
    """The classical methods that are installed."""
    from sa_flax.inference.evaluate import non_local_means

    methods: dict[str, Method] = {"non-local means": non_local_means}
    try:
        import cv2

        methods["OpenCV"] = lambda noisy, sigma: _opencv(cv2, noisy)
    except ImportError:
        pass
    try:
        import bm3d

        methods["BM3D"] = lambda noisy, sigma: _bm3d(bm3d, noisy, sigma)
    except ImportError:
        pass
    return methods


def _opencv(cv2: Any, noisy: np.ndarray) -> np.ndarray:
    """fastNlMeansDenoising(Colored), 8 bits, its strength from the estimated noise."""
    from sa_flax.inference.evaluate import wavelet_sigma

    picture = np.round(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    strength = 0.9 * 255 * wavelet_sigma(noisy)
    if picture.shape[-1] == 1:
        result = cv2.fastNlMeansDenoising(picture[..., 0], None, strength, 7, 21)[..., None]
    else:
        result = cv2.fastNlMeansDenoisingColored(picture, None, strength, strength, 7, 21)
    return result.astype(np.float32) / 255


def _bm3d(bm3d: Any, noisy: np.ndarray, sigma: float | None) -> np.ndarray:
    """BM3D, told the noise level where there is one."""
    from sa_flax.inference.evaluate import wavelet_sigma

    level = sigma or max(wavelet_sigma(noisy), 1e-3)
    if noisy.shape[-1] == 1:
        return bm3d.bm3d(noisy[..., 0], level)[..., None]
    return bm3d.bm3d_rgb(noisy, level)


def networks(
    names: list[str], *, alone: bool = False, self_ensemble: bool = False
) -> tuple[dict[str, Method], dict[str, Method]]:
    """Saved networks as methods: those for colour pictures, and those for gray ones.

    With `alone` nothing is put back into their results, nothing mended, and nothing handed over.
    With `self_ensemble` the results are means over eight flips and rotations.
    """
    from sa_flax.inference.denoiser import Denoiser

    loaded = {Path(name).name: Denoiser.from_pretrained(name) for name in names}
    if alone:
        for network in loaded.values():
            network.keep_detail, network.declip, network.specialists = 0.0, False, {}
        loaded = {f"{name} alone": network for name, network in loaded.items()}
    if self_ensemble:
        loaded = {f"{name}, self-ensemble": network for name, network in loaded.items()}

    def those(which: Callable[[Denoiser], bool]) -> dict[str, Method]:
        return {
            name: partial(network.method, self_ensemble=self_ensemble)
            for name, network in loaded.items()
            if which(network)
        }

    return those(lambda network: network.channels == 3), those(lambda network: network.suits_gray)


def measure(methods: dict[str, Method], cases: Iterator[Case], most: int) -> dict[str, Any]:
    """Mean PSNR (dB) of the input and of every method, the worst gain over the input, and the cost.

    For pictures that are black or white, "bias" is by how many gray levels the mean of the black
    and of the white pixels is off.
    """
    bias: dict[str, tuple[float, float]] = {}
    scores: dict[str, list[float]] = {name: [] for name in ("input", *methods)}
    seconds = dict.fromkeys(methods, 0.0)
    megapixels = 0.0
    for _, case in zip(range(most), cases, strict=False):
        scores["input"].append(_psnr(case.noisy, case.clean))
        for method in methods.values() if not megapixels else ():
            method(case.noisy, case.sigma)  # compiles
        megapixels += case.clean[..., 0].size / 1e6
        for name, method in methods.items():
            before = time.process_time()
            result = method(case.noisy, case.sigma)
            seconds[name] += time.process_time() - before
            scores[name].append(_psnr(np.asarray(result), case.clean))
            if np.all((case.clean == 0) | (case.clean == 1)):
                bias[name] = _bias(np.asarray(result), case.clean)
    floor = np.minimum(scores["input"], 100.0)
    return {
        "pictures": len(floor),
        **({"bias": bias} if bias else {}),
        "psnr": {name: round(float(np.mean(s)), 3) for name, s in scores.items()},
        "worst_gain": {
            name: round(float(np.min(np.minimum(scores[name], 100) - floor)), 3) for name in methods
        },
        "cpu_seconds_per_megapixel": {
            name: round(s / max(megapixels, 1e-9), 3) for name, s in seconds.items()
        },
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Both where their inputs are the same; `new` alone of other pictures or noise."""
    same = bool(old) and old["pictures"] == new["pictures"]
    if not same or abs(old["psnr"]["input"] - new["psnr"]["input"]) > 0.01:
        return new
    return {
        entry: {**old.get(entry, {}), **value} if isinstance(value, dict) else value
        for entry, value in {**old, **new}.items()
    }


def _psnr(result: np.ndarray, clean: np.ndarray) -> float:
    """Of the result as it would be written: clipped, and rounded to 8 bits. At most 100 dB."""
    rounded = np.round(np.clip(result, 0, 1) * 255) / 255
    error = float(np.mean((rounded.reshape(clean.shape) - clean) ** 2))
    return 10 * np.log10(1 / max(error, 1e-10))


def _bias(result: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """Mean error in the black and in the white pixels, in gray levels, as it would be written."""
    error = 255 * (np.clip(result, 0, 1).reshape(clean.shape) - clean)
    return round(float(np.mean(error[clean == 0])), 2), round(float(np.mean(error[clean == 1])), 2)


def table(results: dict[str, Any]) -> str:
    """Mean PSNR as Markdown: a line per set and noise, a column per method.

    In brackets the gain of the picture that gains least.
    """

    def cell(result: dict[str, Any], method: str) -> str:
        if method not in result["psnr"]:
            return ""
        gain = result["worst_gain"].get(method)
        return f"{result['psnr'][method]:.2f}" + ("" if gain is None else f" ({gain:+.2f})")

    columns = list(dict.fromkeys(name for r in results.values() for name in r["psnr"]))
    lines = ["| set: noise | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for title, result in results.items():
        lines.append(f"| {title} | " + " | ".join(cell(result, c) for c in columns) + " |")
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Mean PSNR at sigma 25 on the photographs (or CBSD68) against processor time."""
    from matplotlib.figure import Figure

    titles = [t for t in ("photographs: sigma 25", "cbsd68: sigma 25") if t in results]
    if not titles:
        return
    title = titles[0]
    result = results[title]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, cost in result["cpu_seconds_per_megapixel"].items():
        axes.plot(max(cost, 1e-2), result["psnr"][name], "o")
        axes.annotate(
            name, (max(cost, 1e-2), result["psnr"][name]), (4, 4), textcoords="offset points"
        )
    axes.set_xscale("log")
    axes.set_xlabel("processor seconds per megapixel")
    axes.set_ylabel("PSNR, dB")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.margins(0.15)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help="networks; by default the shipped ones")
    parser.add_argument("--data", type=Path, help="folder with the sets")
    parser.add_argument("--only", nargs="*", help="sets, or 'set: noise', to measure")
    parser.add_argument("--most", type=int, default=10**6, help="pictures of each set")
    parser.add_argument("--no-peers", action="store_true", help="networks only")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="nothing is put back into results, nothing mended, nothing handed over",
    )
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="networks' results are means over eight flips and rotations",
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="where results are added")
    parser.add_argument("--plot", action="store_true", help="only draw what the JSON holds")
    arguments = parser.parse_args()
    results = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    if not arguments.plot:
        tune_cpu()
        from sa_flax import list_pretrained

        others = {} if arguments.no_peers else peers()
        colour, gray = networks(
            arguments.models or list_pretrained(),
            alone=arguments.alone,
            self_ensemble=arguments.self_ensemble,
        )
        for title, cases in sets(arguments.data).items():
            if arguments.only and not {title, title.split(":")[0]} & set(arguments.only):
                continue
            is_gray = title.split(":")[0] in GRAY
            methods = others | (gray if is_gray else colour)
            measured = measure(methods, cases(), arguments.most)
            results[title] = merged(results.get(title, {}), measured)
            print(table({title: results[title]}), flush=True)
            arguments.json.parent.mkdir(exist_ok=True)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    plot(results, arguments.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
