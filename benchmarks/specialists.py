"""Is white noise told from other noise? What `photo` gains and loses by handing pictures over.

    python -m benchmarks.specialists [--data DIR] [--draws 200] [--seed 0]

Noise of many kinds on parts of photographs (the bundled test photographs; with --data the first
hundred pictures of DIR/bsds500/val too): white, a sensor's, correlated, a camera's, and white noise
in a picture that is resized afterwards; half of it clipped, four tenths compressed by JPEG at the
end, a third gray. Each goes through `photo` as it is, through `photo` alone, and through its
specialist alone; the gain is that of the first over the second.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality import held_out
from sa_flax.noise import Camera, Correlated, Gaussian, Noise, PoissonGaussian
from sa_flax.pictures import read_rgb8
from sa_flax.xla_flags import tune_cpu

RESULTS = Path(__file__).parent / "results" / "specialists.json"
KINDS = ("white", "sensor", "correlated", "camera", "resized")
_SIDE = 320
# Pictures of BSDS500's val.
_MOST = 100


def files(data: Path | None) -> list[Path]:
    """The pictures that noise is added to."""
    found = held_out()
    if data is not None:
        found += sorted((data / "bsds500" / "val").glob("*.jpg"))[:_MOST]
    return found


def _noise(kind: str, rng: np.random.Generator) -> Noise:
    sigma = float(np.exp(rng.uniform(np.log(4), np.log(55))))
    if kind == "sensor":
        gain = float(np.exp(rng.uniform(np.log(0.05), np.log(8))))
        return PoissonGaussian(gain, float(rng.uniform(0, 8)))
    if kind == "correlated":
        blur = float(rng.uniform(0, 0.6))
        return Correlated((sigma,) * 2, (blur,) * 2, (blur,) * 2, shared=float(rng.random() < 0.3))
    if kind == "camera":
        mosaic, smoothing = (float(rng.random() < share) for share in (0.5, 0.3))
        return Camera(mosaic=mosaic, smoothing=smoothing, by_difference=0, contrast=1)
    return Gaussian(sigma)


def _as_file(x: np.ndarray) -> Image.Image:
    pixels = np.uint8(np.round(255 * np.clip(x, 0, 1)))
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _pixels(picture: Image.Image) -> np.ndarray:
    x = np.asarray(picture, np.float32) / 255
    return x[..., None] if x.ndim == 2 else x


def _compressed(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    quality, subsampling = rng.choice([70, 85, 90, 95, 98, 100]), rng.choice([0, 2])
    _as_file(x).save(file, "JPEG", quality=int(quality), subsampling=int(subsampling))
    return _pixels(Image.open(file))


def draws(pictures: list[Path], count: int, seed: int) -> Iterator[tuple[str, Any, Any]]:
    """(kind, noisy, clean), each (H, W, C) float32; every draw is of its own seed."""
    from sa_flax.inference.evaluate import noisy_version

    for index in range(count):
        rng = np.random.default_rng([seed, index])
        picture = read_rgb8(pictures[rng.integers(len(pictures))])
        row, column = (rng.integers(max(n - _SIDE, 0) + 1) for n in picture.shape[:2])
        clean = picture[row : row + _SIDE, column : column + _SIDE].astype(np.float32) / 255
        if rng.random() < 1 / 3:
            clean = _pixels(_as_file(clean @ np.float32([[0.299], [0.587], [0.114]])))
        kind = KINDS[index % len(KINDS)]
        noise = _noise(kind, rng)
        noisy = np.asarray(noisy_version(clean, noise, seed=seed, index=index)[0])
        if kind == "resized":
            factor = rng.uniform(0.8, 1.2)
            size = (round(factor * clean.shape[1]), round(factor * clean.shape[0]))
            noisy, clean = (
                _pixels(_as_file(x).resize(size, Image.Resampling.BICUBIC)) for x in (noisy, clean)
            )
        if rng.random() < 0.5:
            noisy = np.clip(noisy, 0, 1)
        if rng.random() < 0.4:
            noisy = _compressed(noisy, rng)
        yield kind, noisy, clean


def _psnr(result: np.ndarray, clean: np.ndarray) -> float:
    return float(-10 * np.log10(max(np.mean((np.clip(result, 0, 1) - clean) ** 2), 1e-10)))


def measure(data: Path | None, count: int, seed: int) -> list[dict[str, Any]]:
    """A row for each draw: its kind, whether it was handed over, and three PSNR in dB."""
    from sa_flax.inference.denoiser import Denoiser

    photo, alone = (Denoiser.from_pretrained("photo") for _ in range(2))
    theirs = {c: Denoiser.from_pretrained(name) for c, name in photo.specialists.items()}
    alone.specialists = {}
    rows = []
    for kind, noisy, clean in draws(files(data), count, seed):
        handed: list[str] = []
        psnr = _psnr(photo(noisy, handed_to=handed.append), clean)
        kept = _psnr(alone(noisy), clean) if handed else psnr
        given = psnr if handed else _psnr(theirs[clean.shape[-1]](noisy, declip=True), clean)
        rows.append(
            {"kind": kind, "handed": bool(handed), "psnr": psnr, "alone": kept, "given": given}
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each kind of noise."""
    lines = [
        "| noise | pictures | handed over | gain (dB) | always right | worst |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind in (*KINDS, "all"):
        of_kind = [row for row in rows if kind in (row["kind"], "all")]
        gains = [row["psnr"] - row["alone"] for row in of_kind]
        best = [max(row["given"] - row["alone"], 0) for row in of_kind]
        handed = sum(row["handed"] for row in of_kind)
        lines.append(
            f"| {kind} | {len(of_kind)} | {handed} | {np.mean(gains):+.2f} | "
            f"{np.mean(best):+.2f} | {min(gains):+.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, writes the JSON, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with bsds500/val")
    parser.add_argument("--draws", type=int, default=200, help="pictures (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the rows are written")
    arguments = parser.parse_args()
    tune_cpu()
    rows = measure(arguments.data, arguments.draws, arguments.seed)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
