"""How much noise a picture has, and of what kind, by the picture alone."""

import dataclasses
from typing import Any

import numpy as np
import pywt

from sa_flax.inference.arrays import as_batch, check_values, to_unit
from sa_flax.pictures import split_alpha

# The finest diagonal band of white noise has the noise's own deviation, and so has the next one.
_WAVELET = "db2"
# Parts of this side, of those the smoothest are taken.
_PART = 64
# A next-coarser band this much stronger than the finest means that neighbours go together.
_CORRELATED = 1.35


@dataclasses.dataclass(frozen=True)
class NoiseEstimate:
    """What `estimate_noise` found.

    Attributes:
      sigma: standard deviation of each channel's noise in [0, 1] units, of what there is between
        neighbouring pixels: the whole of white noise, less of correlated noise.
      white: whether it looks white: no correlation between neighbouring pixels. Networks trained
        on white noise take away little of any other; cameras that interpolate, JPEG and scaled
        pictures make such noise.
      ratio: deviation of the next-coarser scale over that of the finest, about 1 for white noise
        and more where neighbours go together; the largest of the channels.
    """

    sigma: tuple[float, ...]
    white: bool
    ratio: float


def estimate_noise(picture: Any) -> NoiseEstimate:
    """Estimates the noise of a picture.

    The median of the absolute diagonal wavelet coefficients over 0.6745 (Donoho and Johnstone,
    1994), at two scales: white noise has the same deviation in both. Texture has more in the
    coarser one and is no noise, so the scales are compared in the smoothest quarter of the
    picture's parts, and there too sigma is taken where parts differ much.

    Args:
      picture: (H, W) or (H, W, C), of the kinds that `Denoiser` takes; alpha is left aside. At
        least 16 pixels high and wide.

    Raises:
      TypeError, ValueError: for an array that is no picture, a batch, or smaller.
    """
    x = np.asarray(picture)
    batch = as_batch(x)
    if x.ndim == 4 or min(batch.shape[1:3]) < 16:
        raise ValueError(
            f"noise is estimated of one picture of at least 16 x 16 pixels, (H, W) or (H, W, C); "
            f"got {x.shape}."
        )
    colour, _ = split_alpha(batch)
    check_values(colour)
    found = [_of_channel(to_unit(colour[0, :, :, c])) for c in range(colour.shape[-1])]
    sigmas = tuple(sigma for sigma, _ in found)
    ratio = max(ratio for _, ratio in found)
    return NoiseEstimate(sigmas, ratio <= _CORRELATED, ratio)


def _of_channel(x: np.ndarray) -> tuple[float, float]:
    """(sigma, ratio of the scales) of (H, W)."""
    finest, coarser = [], []
    for row in range(0, max(x.shape[0] - 15, 1), _PART):
        for column in range(0, max(x.shape[1] - 15, 1), _PART):
            part = x[row : row + _PART, column : column + _PART]
            # Clipped parts (white sky, black frames) hide their noise.
            if np.mean((part <= 0) | (part >= 1)) > 0.1:
                continue
            _, (_, _, coarse), (_, _, fine) = pywt.wavedec2(part, _WAVELET, "symmetric", 2)
            finest.append(_deviation(fine))
            coarser.append(_deviation(coarse))
    if not finest:
        return _deviation(pywt.dwt2(x, _WAVELET, "symmetric")[1][2]), 1.0
    order = np.argsort(coarser)[: -(-len(coarser) // 4)]
    sigma = float(np.median(np.asarray(finest)[order]))
    coarse = float(np.median(np.asarray(coarser)[order]))
    # Below a level of 8 bits there is rounding and shading, and nothing to call noise.
    return sigma, coarse / max(sigma, 1e-6) if coarse > 1 / 255 else 1.0


def _deviation(band: np.ndarray) -> float:
    # Rounded, for a constant picture's band is made of rounding errors.
    return round(float(np.median(np.abs(band)) / 0.6745), 9)
