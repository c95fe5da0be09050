"""PSNR and SSIM over a set of pictures under the published protocol.

Gaussian noise is added to the clean picture and not clipped; the result is clipped to [0, 1] and
rounded to 8 bits before it is compared; figures are means over pictures. The noise of a picture is
fixed by the seed, its place in the set and the level, so that methods see the same noise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import correlate1d
from skimage.restoration import denoise_nl_means, estimate_sigma

from sa_flax.functional.noise import gaussian_noise

# (noisy picture (H, W, C) float32, sigma in [0, 1] units) -> denoised picture
Method = Callable[[np.ndarray, float], np.ndarray]
Progress = Callable[[str], None]

# The shorter side in pixels of the smallest picture that can be compared: SSIM's window.
SMALLEST = 11


def non_local_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """The classical baseline: scikit-image's non-local means with its own estimate of sigma.

    Settings of its documentation for a known noise level: patches of 5, distance 6, h = 0.6 sigma.
    The true `sigma` is not used.
    """
    del sigma
    estimate = float(np.mean(estimate_sigma(noisy, channel_axis=-1)))
    return denoise_nl_means(
        noisy,
        h=0.6 * estimate,
        sigma=estimate,
        patch_size=5,
        patch_distance=6,
        fast_mode=True,
        channel_axis=-1,
    )


def noisy_version(clean: np.ndarray, sigma: float, *, seed: int, index: int) -> np.ndarray:
    """The picture number `index` of a set, with its fixed noise. `sigma` on the 0-255 scale."""
    key = jax.random.fold_in(jax.random.key(seed), index)
    key = jax.random.fold_in(key, round(sigma * 1000))
    return np.asarray(gaussian_noise(key, jnp.asarray(clean), sigma / 255))


def evaluate(
    methods: dict[str, Method],
    pictures: Sequence[np.ndarray],
    *,
    sigmas: Sequence[float] = (15, 25, 50),
    seed: int = 0,
    with_ssim: bool = True,
    report: Progress = lambda line: None,
) -> list[dict[str, Any]]:
    """Compares denoisers on the same noisy pictures.

    Args:
      methods: name -> function of (noisy (H, W, C) float32, sigma in [0, 1] units) that returns the
        denoised picture. "noisy" itself is always reported besides.
      pictures: clean pictures, (H, W, C) uint8, at least `SMALLEST` pixels high and wide for SSIM.
      sigmas: noise levels on the 0-255 scale.
      seed: fixes the noise.
      with_ssim: compute SSIM as well (the definition is that of `functional.ssim`).
      report: called with a line of progress after each picture.

    Returns:
      One entry per level and method: {"sigma", "method", "psnr" (dB), "ssim", "pictures"}.
    """
    rows = []
    for sigma in sigmas:
        scores: dict[str, list[tuple[float, float]]] = {"noisy": [], **{m: [] for m in methods}}
        for index, picture in enumerate(pictures):
            clean = picture.astype(np.float32) / 255
            noisy = noisy_version(clean, sigma, seed=seed, index=index)
            scores["noisy"].append(_score(noisy, clean, with_ssim))
            for name, method in methods.items():
                result = np.asarray(method(noisy, sigma / 255), np.float32)
                rounded = np.round(np.clip(result, 0, 1) * 255) / np.float32(255)
                scores[name].append(_score(rounded.reshape(clean.shape), clean, with_ssim))
            report(f"sigma {sigma:g}: picture {index + 1} of {len(pictures)}")
        for name, values in scores.items():
            mean_psnr, mean_ssim = np.mean(values, axis=0)
            row = {"sigma": sigma, "method": name, "psnr": float(mean_psnr)}
            if with_ssim:
                row["ssim"] = float(mean_ssim)
            rows.append(row | {"pictures": len(pictures)})
    return rows


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
    """The rows of `evaluate` as a text table: a line per method, a column per level."""
    sigmas = sorted({row["sigma"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cell = {(row["method"], row["sigma"]): row for row in rows}
    width = max(len(m) for m in methods) + 2
    lines = [" " * width + "".join(f"{f'sigma {s:g}':>18}" for s in sigmas)]
    for method in methods:
        cells = []
        for s in sigmas:
            row = cell[method, s]
            similarity = f" / {row['ssim']:.4f}" if "ssim" in row else ""
            cells.append(f"{row['psnr']:.2f}{similarity}")
        lines.append(f"{method:<{width}}" + "".join(f"{c:>18}" for c in cells))
    lines.append("PSNR in dB" + (" / SSIM" if "ssim" in rows[0] else ""))
    return "\n".join(lines)
