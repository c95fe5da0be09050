"""Pictures as a raw file holds them, and developed: what is met in a camera's own pictures.

The mosaic changes the picture itself, not its noise alone: zippers and false colours stand in the
clean partner too, and a denoiser that takes them for noise does harm. Lens, colours,
interpolation and curve are not those of the tiles that `photo` was trained on.
"""

import numpy as np
from scipy.ndimage import convolve, gaussian_filter

# A camera's: gains of red, green and blue in daylight, its colours to sRGB's, and the lens's blur.
_BALANCE = np.array([2.0, 1.0, 1.6])
_TO_SRGB = np.array([[1.66, -0.52, -0.14], [-0.20, 1.50, -0.30], [0.02, -0.55, 1.53]])
_LENS = 0.6
# Malvar, He, Cutler: "High-quality linear interpolation for demosaicing of Bayer-patterned color
# images", ICASSP 2004, Figure 2, in eighths: green at red or blue; red or blue at green, seen to
# the left and right; red at blue and blue at red.
_GREEN = np.array(
    [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
)
_BESIDE = np.array(
    [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
)
_ACROSS = np.array(
    [
        [0, 0, -1.5, 0, 0],
        [0, 2, 0, 2, 0],
        [-1.5, 0, 6, 0, -1.5],
        [0, 2, 0, 2, 0],
        [0, 0, -1.5, 0, 0],
    ]
)


def interpolated(mosaic: np.ndarray) -> np.ndarray:
    """(H, W, 3) from what a sensor sees, (H, W), by Malvar, He and Cutler.

    Red is seen at even rows and columns, blue at odd ones, green at the others.
    """
    rows, columns = np.indices(mosaic.shape) % 2
    green = rows != columns

    def by(kernel: np.ndarray) -> np.ndarray:
        return convolve(mosaic, kernel / 8, mode="mirror")  # which goes on with the pattern

    beside, above, across = by(_BESIDE), by(_BESIDE.T), by(_ACROSS)
    of_red = np.where(rows == 0, beside, above)
    of_blue = np.where(rows == 0, above, beside)
    red = np.where(green, of_red, np.where(rows == 0, mosaic, across))
    blue = np.where(green, of_blue, np.where(rows == 1, mosaic, across))
    return np.stack([red, np.where(green, mosaic, by(_GREEN)), blue], axis=-1)


def through_raw(clean: np.ndarray, shot: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture taken and developed with noise and without: both (H, W, 3) in [0, 1], in 8 bits.

    Back to linear light and a camera's colours, seen through a lens and a mosaic, with Gaussian
    noise of variance `shot * light + read^2`; then interpolated, balanced, in sRGB.

    Args:
      clean: (H, W, 3) in [0, 1], sRGB.
      shot: variance for each unit of light, about 5e-5 (ISO 100) to 1e-2. The read-out's follows
        it as in Brooks et al., CVPR 2019: log read^2 = 2.18 log shot + 1.2.
      seed: of the noise.
    """
    linear = np.where(clean <= 0.04045, clean / 12.92, ((clean + 0.055) / 1.055) ** 2.4)
    linear = gaussian_filter(linear.astype(np.float64), (_LENS, _LENS, 0))
    sensor = np.clip(linear @ np.linalg.inv(_TO_SRGB).T / _BALANCE, 0, 1)
    rows, columns = np.indices(clean.shape[:2]) % 2
    seen = np.take_along_axis(sensor, (rows + columns)[..., None], axis=-1)[..., 0]
    read = np.exp(0.5 * (2.18 * np.log(shot) + 1.2))
    noise = np.sqrt(shot * seen + read**2)
    noise *= np.random.default_rng(seed).standard_normal(seen.shape)
    noisy, reference = (_developed(interpolated(x)) for x in (seen + noise, seen))
    return noisy, reference


def _developed(sensor: np.ndarray) -> np.ndarray:
    """White balance, colours and sRGB's curve, in 8 bits."""
    linear = np.clip((sensor * _BALANCE) @ _TO_SRGB.T, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * curve).astype(np.float32) / 255
