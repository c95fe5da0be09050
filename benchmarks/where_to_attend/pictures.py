"""What the study trains with and tests on: noise, and held-out pictures of four kinds."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from sa_flax.data.builders import PHOTOGRAPHS, SUFFIXES
from sa_flax.errors import InputError
from sa_flax.noise import Blind, Correlated, Gaussian
from sa_flax.pictures import read_rgb8, to_channels

# What every network is tested on. The networks are blind: none is told what it gets.
NOISES: dict[str, Any] = {
    "sigma 15": Gaussian(15),
    "sigma 25": Gaussian(25),
    "sigma 50": Gaussian(50),
    "correlated 25": Correlated((25, 25)),
}


@dataclass(frozen=True)
class WhiteOrCorrelated:
    """What the networks are trained on: half of the pictures have white noise, half correlated.

    White noise alone would teach nothing of correlated noise: a network that knows only the one
    leaves the other as it is. A gray picture (all channels equal) stays gray.
    """

    kind: ClassVar[str] = "white or correlated"
    has_level: ClassVar[bool] = False

    def __call__(self, key: jax.Array, clean: jax.Array) -> tuple[jax.Array, None]:
        which, white, correlated = jax.random.split(key, 3)
        is_white = jax.random.bernoulli(which, 0.5, (clean.shape[0], 1, 1, 1))
        noisy = jnp.where(is_white, Blind()(white, clean)[0], Correlated()(correlated, clean)[0])
        gray = jnp.all(clean == clean[..., :1], axis=(1, 2, 3), keepdims=True)
        return jnp.where(gray, noisy[..., :1], noisy), None


def repetition(picture: np.ndarray) -> float:
    """How much a gray picture (H, W) in [0, 1] repeats itself, 0 (not at all) to 1 (a wallpaper).

    The picture without what is smooth over 3 pixels is compared with itself, shifted: `r(s)` is
    their correlation for a shift s of up to a third of the shorter side. What repeats itself comes
    back after it has gone: the highest `r(s) - max(r(s / 2), 0)`, s at least a sixteenth of the
    side. An edge, which correlates all along itself, never goes; noise never comes back. A picture
    whose detail has a standard deviation of less than 5 gray levels of 255 has nothing to repeat.
    """
    from scipy.ndimage import gaussian_filter

    height, width = picture.shape
    side = min(height, width)
    # Fades towards the border, so that what is cut there is no detail.
    fade = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    detail = (picture - gaussian_filter(picture, 3)) * fade

    def with_itself(x: np.ndarray) -> np.ndarray:
        padded = np.fft.rfft2(x, (2 * height, 2 * width))
        return np.fft.irfft2(np.abs(padded) ** 2, (2 * height, 2 * width))

    shared = with_itself(fade)
    variance = with_itself(detail)[0, 0] / shared[0, 0]
    if variance < (5 / 255) ** 2:
        return 0.0
    most = side // 3 // 2
    halves = np.arange(-most, most + 1)
    correlation = with_itself(detail) / np.maximum(shared, 1e-9) / variance
    half = correlation[np.ix_(halves, halves)]
    full = correlation[np.ix_(2 * halves, 2 * halves)]
    far = np.maximum(np.abs(halves[:, None]), np.abs(halves)) >= side / 32
    return float(np.clip((full - np.maximum(half, 0))[far].max(), 0, 1))


def most_repetitive(picture: np.ndarray, side: int) -> tuple[float, np.ndarray]:
    """The crop of `side` pixels that repeats itself most, and its `repetition`."""
    gray = to_channels(picture, 1)[..., 0] / 255
    best = (-1.0, picture)
    for top in range(0, max(gray.shape[0] - side, 0) + 1, side // 2):
        for left in range(0, max(gray.shape[1] - side, 0) + 1, side // 2):
            window = np.s_[top : top + side, left : left + side]
            best = max(best, (repetition(gray[window]), picture[window]), key=lambda pair: pair[0])
    return best


def centre(picture: np.ndarray, largest: int) -> np.ndarray:
    """The middle of a picture, at most `largest` pixels a side."""
    height, width = (min(side, largest) for side in picture.shape[:2])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]


def held_out_sets(
    *, data: Path | None, source: str, largest: int, most: int
) -> dict[str, list[np.ndarray]]:
    """The held-out pictures, (H, W, C) uint8, by the name of their set.

    - photographs: the six bundled test photographs;
    - gray: DATA/set12, without it the bundled validation photographs in gray;
    - repeated: crops of 160 pixels that repeat themselves most, one a photograph, from the bundled
      test and validation photographs and those in DATA/photos that are not trained on;
    - bsds: DATA/bsds500/val without CBSD68's.

    Args:
      data: folder with further sets; None for the bundled photographs alone.
      source: what is trained on: photographs, or a folder, whose names are left out of "repeated".
      largest: side in pixels that pictures are cut to.
      most: pictures of each set.

    Raises:
      InputError: where `data` is no folder.
    """
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data}: no such folder.")
    with (PHOTOGRAPHS / "LICENSES.tsv").open(newline="") as table:
        bundled = {row["file"]: row["split"] for row in csv.DictReader(table, delimiter="\t")}
    held_out = [PHOTOGRAPHS / name for name, split in bundled.items() if split != "train"]
    tests = [path for path in held_out if bundled[path.name] == "test"]
    others = [path for path in held_out if bundled[path.name] == "validation"]
    if source == "photographs":
        trained_on = {name for name, split in bundled.items() if split == "train"}
    else:
        trained_on = {path.name for path in Path(source).rglob("*") if path.suffix in SUFFIXES}

    def read(paths: Iterable[Path], channels: int = 3) -> list[np.ndarray]:
        pictures = (to_channels(read_rgb8(path), channels) for path in list(paths)[:most])
        return [centre(picture, largest) for picture in pictures]

    found = {"photographs": read(tests)}
    free = list(held_out)
    gray: Sequence[Path] = others
    if data is not None:
        gray = sorted((data / "set12").glob("*.png")) or others
        names = {path.name for path in held_out} | trained_on
        more = (path for path in sorted((data / "photos").glob("*.jpg")) if path.name not in names)
        free += more
        ids = data / "bsds500" / "cbsd68_ids.txt"
        if ids.is_file():
            taken = set(ids.read_text().split())
            paths = sorted((data / "bsds500" / "val").glob("*.jpg"))
            found["bsds"] = read(path for path in paths if path.stem not in taken)
    found["gray"] = read(gray, 1)
    side = min(160, largest)
    crops = [most_repetitive(read_rgb8(path), side) for path in free]
    crops.sort(key=lambda pair: -pair[0])
    # Half of a few pictures; of many, those that repeat themselves most.
    found["repeated"] = [crop for _, crop in crops[: min(most, 12, (len(crops) + 1) // 2)]]
    return found
