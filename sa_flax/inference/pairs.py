"""Pairs of pictures, noisy and clean, as real cameras give them; and how close they are."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sa_flax.errors import InputError
from sa_flax.inference.evaluate import NOISY, SMALLEST, score
from sa_flax.pictures import find_pictures, read_picture

# pixels as read_picture gives them -> denoised pixels of the same kind
Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Two files that show the same.

    Attributes:
      name: what they have in common: the place below their folders, without suffixes and ending.
      noisy, clean: the files.
    """

    name: str
    noisy: Path
    clean: Path


def find_pairs(
    noisy: Path, clean: Path, *, noisy_suffix: str = "", clean_suffix: str = ""
) -> tuple[list[Pair], list[str]]:
    """Pairs of files with the same name below two folders, which may be one.

    Args:
      noisy, clean: folders; sub-folders count.
      noisy_suffix, clean_suffix: what the names of each kind end in before the file's ending, e.g.
        "_real" and "_mean".

    Returns:
      The pairs by name, and a line for each file that has no partner.

    Raises:
      InputError: where there are no pairs, or a name belongs to two files.
    """
    if os.path.realpath(noisy) == os.path.realpath(clean) and noisy_suffix == clean_suffix:
        raise InputError(
            f"noisy and clean pictures are both in {clean}: say how their names end, for example "
            "--noisy-suffix _real --clean-suffix _mean."
        )
    noisy_files = _by_name(noisy, noisy_suffix)
    clean_files = _by_name(clean, clean_suffix)
    both = [name for name in noisy_files if name in clean_files]
    alone = [
        f"{path}: has no {what} of its name"
        for files, others, what in (
            (noisy_files, clean_files, "clean picture"),
            (clean_files, noisy_files, "noisy picture"),
        )
        for name, path in files.items()
        if name not in others
    ]
    if not both:
        raise InputError(
            f"no pairs: none of {len(noisy_files)} names of noisy pictures in {noisy} is among the "
            f"{len(clean_files)} of clean ones in {clean}"
            f"{_example(noisy_files)}{_example(clean_files)}. Pairs have the same name; where they "
            "end differently, give --noisy-suffix and --clean-suffix."
        )
    return [Pair(name, noisy_files[name], clean_files[name]) for name in both], alone


def _example(files: dict[str, Path]) -> str:
    return f" (e.g. {next(iter(files.values())).name})" if files else ""


def _by_name(folder: Path, suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_pictures(folder):
        if not path.stem.endswith(suffix):
            continue
        name = str(path.relative_to(folder).with_name(path.stem.removesuffix(suffix)))
        if name in found:
            raise InputError(f"{found[name]} and {path} have one name, and pairs go by names.")
        found[name] = path
    return found


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
    noisy, clean = read_picture(pair.noisy).pixels, read_picture(pair.clean).pixels
    target = _colours(clean)
    if _colours(noisy).shape != target.shape:
        raise InputError(
            f"{pair.noisy}: is {_describe(noisy)}, and {pair.clean} is {_describe(clean)}."
        )
    height, width = target.shape[:2]
    if min(height, width) < SMALLEST:
        raise InputError(
            f"{pair.noisy}: is {width} x {height} pixels; SSIM is defined from {SMALLEST} x "
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
    groups: dict[tuple, list[dict[str, Any]]] = {}
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
