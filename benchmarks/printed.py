"""Printed pictures, scanned: a fine regular pattern of black and white that is no noise."""

import numpy as np
from scipy.ndimage import gaussian_filter

# The screen's angle, ink and paper of 255, the scanner's blur in pixels and its noise of 255.
_ANGLE, _INK, _PAPER, _BLUR, _NOISE = 0.7, 30.0, 235.0, 0.6, 5.0


def scanned(clean: np.ndarray, period: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture printed in halftone, and scanned with noise and without: both (H, W, 3), 8 bits.

    Args:
      clean: (H, W, 3) in [0, 1].
      period: of the screen's dots, in pixels of the scan.
      seed: of the noise.
    """
    y, x = np.indices(clean.shape[:2]) * (2 * np.pi / period)
    along = np.cos(_ANGLE) * x + np.sin(_ANGLE) * y
    across = np.cos(_ANGLE) * y - np.sin(_ANGLE) * x
    paper = clean.mean(axis=-1) > 0.5 + 0.25 * (np.cos(along) + np.cos(across))
    levels = _INK + (_PAPER - _INK) * gaussian_filter(paper.astype(np.float64), _BLUR)
    scan = np.repeat(levels[..., None], 3, axis=-1)
    noise = _NOISE * np.random.default_rng(seed).standard_normal(scan.shape)
    noisy, reference = (
        np.float32(np.round(np.clip(v, 0, 255))) / 255 for v in (scan + noise, scan)
    )
    return noisy, reference
