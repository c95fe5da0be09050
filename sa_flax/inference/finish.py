"""What is done to a network's result: less of it, and texture put back.

Pictures are float, (H, W, C); both functions look at single pixels or a few around them.
"""

import dataclasses

import numpy as np

from sa_flax.inference.arrays import to_unit

# Scales of `texture`, and how far it looks.
_SCALES = 3
REACH = 2 * (2**_SCALES - 1)
# Standard deviation of white noise of deviation 1 in each scale of `_details`.
_WHITE = (0.8908, 0.2007, 0.0856)


def _details(x: np.ndarray) -> list[np.ndarray]:
    """The finest scales of (H, W): differences between ever smoother versions of it.

    The undecimated ("a trous") wavelet with the B3 spline [1 4 6 4 1] / 16, mirrored at the edges.
    """
    from scipy.ndimage import correlate1d  # not at every start

    spline = np.array([1, 4, 6, 4, 1], np.float32) / 16
    details = []
    for scale in range(_SCALES):
        weights = np.zeros(4 * 2**scale + 1, np.float32)
        weights[:: 2**scale] = spline
        smooth = x
        for axis in (0, 1):
            smooth = correlate1d(smooth, weights, axis=axis, mode="mirror")
        details.append(x - smooth)
        x = smooth
    return details


def texture(noisy: np.ndarray, clean: np.ndarray, sigma: float) -> np.ndarray:
    """What a denoiser took for noise and is likely none, (H, W, 1).

    The luminance (mean of the channels) of `noisy - clean`, in its three finest wavelet scales,
    each value d of them shrunk to `d * max(1 - (3 s / |d|)^2, 0)` (the non-negative garrote), s
    being the noise in that scale: plain noise goes to 0, what stands out of it stays.

    Args:
      noisy, clean: (H, W, C) float.
      sigma: standard deviation of the noise in the luminance of `noisy`.
    """
    removed = (noisy - clean).mean(axis=-1, dtype=np.float32)
    kept = np.zeros_like(removed)
    for detail, share in zip(_details(removed), _WHITE, strict=True):
        threshold = 3 * share * sigma
        square = np.square(detail)
        with np.errstate(divide="ignore", invalid="ignore"):
            kept += np.where(square > threshold**2, detail - threshold**2 / detail, 0)
    return kept[..., None]


def luminance_noise(picture: np.ndarray) -> float:
    """Standard deviation of the noise in the mean of a picture's channels, in [0, 1] units.

    The median of the absolute values of the finest scale, over 0.6745 and that scale's share of
    white noise (Donoho and Johnstone, 1994), of at most sixteen parts of 128 x 128 of the picture.
    """
    rows, columns = (_starts(length, 128) for length in picture.shape[:2])
    finest = [
        _details(to_unit(picture[r : r + 128, c : c + 128]).mean(axis=-1))[0].ravel()
        for r in rows
        for c in columns
    ]
    return float(np.median(np.abs(np.concatenate(finest))) / 0.6745 / _WHITE[0])


def _starts(length: int, part: int) -> list[int]:
    count = min(4, -(-length // part))
    return [round(i * max(length - part, 0) / max(count - 1, 1)) for i in range(count)]


@dataclasses.dataclass(frozen=True)
class Finish:
    """Strength and kept detail: `finish(noisy, clean) -> result`, (H, W, C) float.

        clean' = clean + keep_detail * texture(noisy, clean)
        result = noisy + strength * (clean' - noisy)

    Attributes:
      strength: how much of the noise to take away, 0 to 1.
      keep_detail: how much of `texture` to put back, 0 to 1.
      sigma: what `texture` is told.

    Raises:
      ValueError: for numbers outside of [0, 1].
    """

    strength: float = 1.0
    keep_detail: float = 0.0
    sigma: float = 0.0

    def __post_init__(self):
        for name in ("strength", "keep_detail"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # NaN neither
                raise ValueError(f"{name} goes from 0 to 1; got {value!r}.")

    @property
    def looks_around(self) -> bool:
        """Whether the result of a pixel depends on pixels around it, up to `REACH` away."""
        return self.keep_detail > 0

    def for_picture(self, picture: np.ndarray) -> "Finish":
        """Told the noise of this picture, where that is needed."""
        if not self.looks_around:
            return self
        return dataclasses.replace(self, sigma=luminance_noise(picture))

    def __call__(self, noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
        if self.keep_detail:
            clean = clean + np.float32(self.keep_detail) * texture(noisy, clean, self.sigma)
        if self.strength == 1:
            return clean
        return noisy + np.float32(self.strength) * (clean - noisy)
