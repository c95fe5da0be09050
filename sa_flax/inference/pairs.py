"""How close noisy and denoised pictures are to their clean partners, file by file."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from sa_flax.data.pairs import Pair
from sa_flax.errors import InputError
from sa_flax.inference.evaluate import NOISY, SMALLEST, score
from sa_flax.pictures import read_picture

# pixels as read_picture gives them -> denoised pixels of the same kind
Function = Callable[[np.ndarray], np.ndarray]


def measure(pair: Pair, methods: dict[str, Function]) -> list[dict[str, Any]]:
    """PSNR and SSIM of the noisy picture, and of what each method makes of it.

    The results are rounded to the noisy file's depth, as `sa-flax denoise` writes them. Alpha is
    left out.

    Returns:
      A row for the noisy picture and for each method: {"picture", "method", "width", "height",
      "psnr" (dB), "ssim"}.

    Raises:
      InputError: naming the files, where they can't be read or compared.
    """
    noisy, clean = read_picture(pair.noisy.path).pixels, read_picture(pair.clean.path).pixels
    target = _colours(clean)
    if _colours(noisy).shape != target.shape:
        raise InputError(
            f"{pair.noisy.path}: is {_describe(noisy)}, and {pair.clean.path} is "
            f"{_describe(clean)}."
        )
    height, width = target.shape[:2]
    if min(height, width) < SMALLEST:
        raise InputError(
            f"{pair.noisy.path}: is {width} x {height} pixels; SSIM is defined from {SMALLEST} x "
            f"{SMALLEST}."
        )
    rows = []
    for name, method in {NOISY: lambda pixels: pixels, **methods}.items():
        psnr, ssim = score(_colours(method(noisy)), target)
        about = {"picture": pair.name, "method": name, "width": width, "height": height}
        rows.append({**about, "psnr": psnr, "ssim": ssim})
    return rows


def _describe(pixels: np.ndarray) -> str:
    channels = _colours(pixels).shape[-1]
    kind = {1: "gray", 3: "colour"}.get(channels, f"of {channels} channels")
    return f"{pixels.shape[1]} x {pixels.shape[0]} pixels, {kind}"


def _colours(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) float32 in [0, 1] without alpha."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    colours = pixels.shape[-1] - (pixels.shape[-1] in (2, 4))
    return pixels[..., :colours].astype(np.float32) / np.iinfo(pixels.dtype).max


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per method (and level, where there are levels): the means over all pictures."""
    groups: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row.get("sigma"), row["method"]), []).append(row)
    return [
        {
            **({} if sigma is None else {"sigma": sigma}),
            "method": method,
            "psnr": float(np.mean([row["psnr"] for row in group])),
            "ssim": float(np.mean([row["ssim"] for row in group])),
            "pictures": len(group),
        }
        for (sigma, method), group in groups.items()
    ]


def format_pairs(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `measure` as a text table: a line per picture, a column per method."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    pictures = list(dict.fromkeys(row["picture"] for row in rows))
    cell = {(row["picture"], row["method"]): row for row in rows}
    width = max(len(name) for name in [*pictures, "mean"]) + 2
    column = max(18, *(len(method) + 2 for method in methods))
    lines = [" " * width + "".join(f"{method:>{column}}" for method in methods)]
    for picture in pictures:
        cells = (_figures(cell[picture, method]) for method in methods)
        lines.append(f"{picture:<{width}}" + "".join(f"{c:>{column}}" for c in cells))
    cells = (_figures(row) for row in means(rows))
    lines.append(f"{'mean':<{width}}" + "".join(f"{c:>{column}}" for c in cells))
    return "\n".join([*lines, "PSNR in dB / SSIM"])


def _figures(row: dict[str, Any]) -> str:
    return f"{row['psnr']:.2f} / {row['ssim']:.4f}"


def to_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Rows with the same entries as comma-separated values, with a line of names."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
