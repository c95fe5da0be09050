"""PSNR and SSIM over a set of pictures under the published protocol.

Noise is added to the clean picture (the published one is Gaussian and not clipped); the result is
clipped to [0, 1] and rounded to 8 bits before it is compared; figures are means over pictures. The
noise of a picture is fixed by the seed, its place in the set and the noise, so that methods see the
same one.
"""

import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.ndimage import correlate1d
from skimage.restoration import denoise_nl_means, estimate_sigma

from sa_flax.data.splits import Example
from sa_flax.noise import Blind, Gaussian, Noise

# (noisy picture (H, W, C) float32, sigma in [0, 1] units or None) -> denoised picture
Method = Callable[[np.ndarray, float | None], np.ndarray]
Progress = Callable[[str], None]

# The shorter side in pixels of the smallest picture that can be compared: SSIM's window.
SMALLEST = 11


# Rows of the table that no network may be called by.
NOISY, BASELINE = "noisy", "non-local means"
# The noise of a set of pairs, as `noises_of` names it.
PAIRS = "pairs"


def label(model: str | os.PathLike[str]) -> str:
    """What a network is called in a table: the last part of its name, and as no other row is."""
    name = Path(os.path.abspath(model)).name
    return f"network {name}" if name in (NOISY, BASELINE, "") else name


def wavelet_sigma(picture: np.ndarray) -> float:
    """An estimate of white noise's sigma, the mean over the channels, in the picture's own units.

    From the finest wavelet details (Donoho and Johnstone 1994). A channel without any has no noise.

    Args:
      picture: (H, W, C), floating point.
    """
    with warnings.catch_warnings():  # of scikit-image's, which leaves out details that are 0
        warnings.simplefilter("ignore", RuntimeWarning)
        levels = estimate_sigma(picture, channel_axis=-1)
    return float(np.mean(np.nan_to_num(levels)))


def non_local_means(noisy: np.ndarray, sigma: float | None) -> np.ndarray:
    """The classical baseline: scikit-image's non-local means with its own estimate of sigma.

    Settings of its documentation for a known noise level: patches of 5, distance 6, h = 0.6 sigma.
    The true `sigma` is not used.
    """
    del sigma
    estimate = wavelet_sigma(noisy)
    if estimate == 0:
        return noisy
    return denoise_nl_means(
        noisy,
        h=0.6 * estimate,
        sigma=estimate,
        patch_size=5,
        patch_distance=6,
        fast_mode=True,
        channel_axis=-1,
    )


def noisy_version(
    clean: np.ndarray, noise: Noise, *, seed: int, index: int, page: int = 0
) -> tuple[np.ndarray, float | None]:
    """Picture number `index` of a set, with its fixed noise, and the noise's level in [0, 1] units.

    Each `page` of a picture has its own. The level is None for noise that has none. Nothing is
    compiled anew for a picture of another size, or, except for white noise, only when its sides
    need more steps of 64 pixels.
    """
    key = jax.random.fold_in(jax.random.key(seed), index)
    key = jax.random.fold_in(key, page) if page else key
    if isinstance(noise, Gaussian) and not noise.clip:
        key = jax.random.fold_in(key, round(noise.sigma * 1000))
        # Every number is a function of the key and its place, however many are drawn.
        drawn = _normal(key, -(-clean.size // 2**18) * 2**18)
        white = np.asarray(drawn)[: clean.size].reshape(clean.shape)
        return clean + np.float32(noise.sigma / 255) * white, noise.sigma / 255
    key = jax.random.fold_in(key, zlib.crc32(repr(noise).encode()))
    height, width = clean.shape[:2]
    padding = ((0, -height % 64), (0, -width % 64), (0, 0))
    noisy, sigma = _draw(noise, key, np.pad(clean, padding, mode="symmetric")[None])
    return np.asarray(noisy)[0, :height, :width], None if sigma is None else float(sigma[0])


_normal = jax.jit(lambda key, count: jax.random.normal(key, (count,)), static_argnums=1)
_draw = jax.jit(lambda noise, key, clean: noise(key, clean), static_argnums=0)


def noisy_and_clean(
    picture: np.ndarray | Example, noise: Noise | None, *, seed: int, index: int
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Noisy and clean (H, W, C) float32 in [0, 1], and the noise's level where it has one.

    Without a noise the picture is a pair, whose noisy one is taken.
    """
    if isinstance(picture, dict) and noise is None:
        noisy, clean = (picture[name].astype(np.float32) / 255 for name in ("noisy", "clean"))
        return noisy, clean, None
    whole = picture["clean"] if isinstance(picture, dict) else picture
    assert noise is not None
    clean = whole.astype(np.float32) / 255
    noisy, sigma = noisy_version(clean, noise, seed=seed, index=index)
    return noisy, clean, sigma


def noises_of(
    own: Noise | None, sigmas: Sequence[float], *, pairs: bool = False
) -> dict[str, Noise | None]:
    """What a run is judged on, by name: the published Gaussian levels, and its own noise.

    Its own is left out where it is one of those anyway: blind, and of any level. A run on pairs has
    the noise of their noisy pictures, "pairs", which is None here.
    """
    noises: dict[str, Noise | None] = {f"sigma {s:g}": Gaussian(sigma=s) for s in sigmas}
    if pairs:
        noises[PAIRS] = None
    elif own is not None and (name := own_name(own)) is not None:
        noises[name] = own
    return noises


def own_name(noise: Noise) -> str | None:
    """What a run's own noise is called among `noises_of`; None where that is all of the levels."""
    if isinstance(noise, Gaussian) and not noise.clip:
        return f"sigma {noise.sigma:g}"
    return None if isinstance(noise, Blind) and not noise.clip else noise.kind


def evaluate(
    methods: dict[str, Method],
    pictures: Sequence[np.ndarray | Example],
    *,
    noises: Mapping[str, Noise | None],
    seed: int = 0,
    with_ssim: bool = True,
    report: Progress = lambda line: None,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Compares denoisers on the same noisy pictures.

    Args:
      methods: name -> function of (noisy (H, W, C) float32, sigma in [0, 1] units or None) that
        returns the denoised picture. "noisy" itself is always reported besides, so none can
        be called so.
      pictures: clean pictures, (H, W, C) uint8, at least `SMALLEST` pixels high and wide for SSIM;
        or {"clean": picture, "noisy": picture}.
      noises: by the names that columns get; see `noises_of`.
      seed: fixes the noise.
      with_ssim: compute SSIM as well (the definition is that of `functional.ssim`).
      report: called with a line of progress after each picture.
      each: called with a row for every picture, level and method: {"picture" (its place), "noise",
        "method", "psnr", "ssim"}.

    Returns:
      One entry per noise and method: {"noise" (name), "sigma" (0-255, None for noise without a
      level), "method", "psnr" (dB), "ssim", "pictures"}.
      PSNR is infinite where all pictures are equal, as the noisy ones are with sigma 0.

    Raises:
      ValueError: for a method called "noisy"; `label` gives a name that can't clash.
    """
    if NOISY in methods:
        raise ValueError(f"a method can't be called {NOISY!r}, as the input is. See label().")
    rows = []
    for title, noise in noises.items():
        scores: dict[str, list[tuple[float, float]]] = {NOISY: [], **{m: [] for m in methods}}
        for index, picture in enumerate(pictures):
            noisy, clean, sigma = noisy_and_clean(picture, noise, seed=seed, index=index)
            scores[NOISY].append(_score(noisy, clean, with_ssim))
            for name, method in methods.items():
                result = np.asarray(method(noisy, sigma), np.float32)
                rounded = np.round(np.clip(result, 0, 1) * 255) / np.float32(255)
                scores[name].append(_score(rounded.reshape(clean.shape), clean, with_ssim))
            for name, values in scores.items():
                row = {"picture": index, "noise": title, "method": name, "psnr": values[-1][0]}
                each(row | ({"ssim": values[-1][1]} if with_ssim else {}))
            report(f"{title}: picture {index + 1} of {len(pictures)}")
        for name, values in scores.items():
            mean_psnr, mean_ssim = np.mean(values, axis=0)
            level = noise.sigma if isinstance(noise, Gaussian) else None
            row = {"noise": title, "sigma": level, "method": name, "psnr": float(mean_psnr)}
            if with_ssim:
                row["ssim"] = float(mean_ssim)
            rows.append(row | {"pictures": len(pictures)})
    return rows


def score(result: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """PSNR in dB and SSIM of a picture (H, W, C) float32 in [0, 1]."""
    return _score(result, clean, True)


def _score(result: np.ndarray, clean: np.ndarray, with_ssim: bool) -> tuple[float, float]:
    return _psnr(result, clean), _ssim(result, clean) if with_ssim else float("nan")


# `functional.psnr` and `functional.ssim` without JAX, which compiles anew for every size.


def _psnr(result: np.ndarray, clean: np.ndarray) -> float:
    error = np.square(np.subtract(result, clean, dtype=np.float32)).mean(dtype=np.float64)
    return float(-10 * np.log10(error)) if error else float("inf")


# The Gaussian window of standard deviation 1.5, cut off at 3.5 deviations, along one axis.
_RADIUS = SMALLEST // 2
_WINDOW = np.exp(-0.5 * np.square(np.arange(-_RADIUS, _RADIUS + 1) / 1.5))
_WINDOW /= _WINDOW.sum()


def _ssim(result: np.ndarray, clean: np.ndarray) -> float:
    height, width, channels = clean.shape
    rows = max(2**20 // (width * channels), 1)
    total = 0.0
    # In bands, whose maps stay small whatever the picture.
    for first in range(0, height - 2 * _RADIUS, rows):
        band = slice(first, min(first + rows, height - 2 * _RADIUS) + 2 * _RADIUS)
        total += float(_ssim_map(result[band], clean[band]).sum(dtype=np.float64))
    return total / ((height - 2 * _RADIUS) * (width - 2 * _RADIUS) * channels)


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    def blur(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = correlate1d(x, _WINDOW, axis=axis, mode="nearest")
        return x[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    squares = mean_a**2 + mean_b**2
    variances = blur(a * a + b * b) - squares
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (squares + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `evaluate` as a text table: a line per method, a column per noise."""
    titles = list(dict.fromkeys(row["noise"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cell = {(row["method"], row["noise"]): row for row in rows}
    width = max(len(m) for m in methods) + 2
    lines = [" " * width + "".join(f"{title:>18}" for title in titles)]
    for method in methods:
        cells = []
        for title in titles:
            row = cell[method, title]
            similarity = f" / {row['ssim']:.4f}" if "ssim" in row else ""
            cells.append(f"{row['psnr']:.2f}{similarity}")
        lines.append(f"{method:<{width}}" + "".join(f"{c:>18}" for c in cells))
    lines.append("PSNR in dB" + (" / SSIM" if "ssim" in rows[0] else ""))
    return "\n".join(lines)
