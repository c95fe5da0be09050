"""Black and white under noise that was clipped.

A noisy picture of 8 bits ends at 0 and 1, and what the noise would have put beyond is lost: pixels
of a white wall are white or darker, and their mean, which a denoiser is after, is gray. But how
many of them are at the limit tells where their mean would be without it (Foi, "Clipped noisy
images", Signal Processing 89, 2009): for a value v = 1 - u s under Gaussian noise of standard
deviation s,

    f = P(noisy >= 1)           = 1 - Phi(u)
    d = E[max(1 - noisy, 0)]    = s (u Phi(u) + phi(u))

with the distribution Phi and density phi of the standard normal. f and d are measured around each
pixel, which gives u, s and v. Where noisy values lie beyond the limit, nothing was clipped.
"""

import numpy as np

from sa_flax.inference.box import box_means, channel_means

# Side of the windows that f and d are means over; taken twice.
_WIDTH = 15
REACH = 2 * (_WIDTH // 2)
# A pixel at least so near to the limit, in 8 bits, and not beyond it, is at the limit.
_AT = 1.5 / 255
# What is near: this many standard deviations of what was removed; half of one more and it is far.
_NEAR = 2.0
# f from which on it is known well enough that the limit was met, and the share of a window that has
# to be near: none of the correction at the first, all of it at the second.
_MET, _SHARE = (0.35, 0.45), (0.15, 0.3)
# Standard deviation that white noise keeps in white, clipped: sqrt(1 / 2 - 1 / (2 pi)).
_KEPT = 0.584
# Less noise than this is not worth it.
_LEAST = 0.5 / 255
# Standard error of u in such a window, whose 500 or so pixels count: 1.25 / sqrt(500) for u = 0.
# What can't be told from the limit is put there: less would stay gray in the mean, since what is
# beyond is cut off.
_UNSURE = 0.05
# Factor, as a logarithm, by which s may be off what the noise is elsewhere; at twice that, nothing.
_OFF = 0.3


def mended(noisy: np.ndarray, clean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """What is to be added to a denoiser's result, so that black is black and white is white.

    It makes light pixels lighter and dark ones darker where the share of noisy pixels at the limit
    says so, and by no more than the noise. Less than half a gray level of noise is left alone.

    Args:
      noisy, clean: (H, W, C) float; the limits are 0 and 1.
      deviation: (H, W, 1) standard deviation of what was removed from pixels as bright as this one.

    Returns:
      (H, W, C) float. A pixel's depends on pixels up to `REACH` away.
    """
    return _towards_one(noisy, clean, deviation) - _towards_one(1 - noisy, 1 - clean, deviation)


def _towards_one(noisy: np.ndarray, clean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    added = np.zeros_like(clean)
    near = np.clip(2 * ((clean - 1) / np.maximum(deviation, _LEAST) + _NEAR), 0, 1)
    near *= deviation > _LEAST
    part = _box(channel_means(near) > 0)  # in any channel
    noisy, clean, near, deviation = noisy[part], clean[part], near[part], deviation[part]
    if not near.size:
        return added

    def around(x: np.ndarray) -> np.ndarray:
        for _ in range(2):
            x = box_means(x, _WIDTH)
        return x

    share = around(near)
    there = share > _SHARE[0]
    limit = (noisy >= 1 - _AT) & (noisy <= 1)
    at = around(near * limit) / np.maximum(share, 1e-6)
    there &= at > _MET[0]
    if not there.any():
        return added
    at, of_near = at[there], share[there]
    lost, now = (
        around(near * x)[there] / of_near for x in (np.maximum(1 - noisy, 0), np.minimum(clean, 1))
    )
    value, sigma = _unclipped(at, lost)
    usual = np.broadcast_to(deviation, near.shape)[there]
    off = np.abs(np.log(np.maximum(sigma, 1e-9) / np.maximum(usual / _KEPT, 1e-9)))
    sure = _ramp(at, _MET) * _ramp(of_near, _SHARE) * _ramp(-off, (-2 * _OFF, -_OFF))
    shift = np.zeros_like(near)
    shift[there] = sure * np.clip(value - now, 0, usual)
    added[part] = near * shift
    return added


def _unclipped(at: np.ndarray, lost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest value that f and d (see above) leave, and the noise's standard deviation."""
    from scipy.special import ndtr, ndtri

    u = -ndtri(np.clip(at, 1e-3, 1 - 1e-3))
    sigma = lost / (u * ndtr(u) + np.exp(-u * u / 2) / np.sqrt(2 * np.pi))
    return 1 - (u - _UNSURE) * sigma, sigma


def _ramp(x: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """0 up to the first end, 1 from the second."""
    return np.clip((x - ends[0]) / (ends[1] - ends[0]), 0, 1)


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle with all of a mask (H, W), and `REACH` around it."""
    sides = []
    for axis in (1, 0):
        found = np.flatnonzero(mask.any(axis=axis))
        first, last = (found[0], found[-1]) if len(found) else (0, -1 - 2 * REACH)
        sides.append(slice(max(first - REACH, 0), max(last + 1 + REACH, 0)))
    return sides[0], sides[1]
