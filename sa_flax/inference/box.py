"""Means over windows, blocks and channels by additions of whole arrays, in float32.

scipy's windows, and NumPy's reductions over an axis as short as that of the channels, take several
times as long.
"""

import numpy as np


def box_means(x: np.ndarray, width: int) -> np.ndarray:
    """Mean over width x width pixels around each, (H, W, C), float32; `width` is odd.

    The edges are mirrored, the edge pixel not repeated, as `scipy.ndimage.uniform_filter` does with
    mode="mirror". Sums over windows of 1, 2, 4, ... pixels, each from two of the one before, are
    put together to the width: a few additions of whole arrays, and no difference of large sums.
    """
    x = np.asarray(x, np.float32)
    for axis in (0, 1):
        ends = [(0, 0)] * x.ndim
        ends[axis] = (width // 2, width // 2)
        x = _sums(np.pad(x, ends, mode="reflect"), axis, width)
    x *= np.float32(1 / width**2)
    return x


def channel_means(x: np.ndarray) -> np.ndarray:
    """Mean of the channels at each pixel: (H, W) of (H, W, C), as `x.mean(axis=-1)`."""
    total = x[..., 0].astype(np.float32)
    for channel in range(1, x.shape[-1]):
        total += x[..., channel]
    total /= np.float32(x.shape[-1])
    return total


def has_two_values(x: np.ndarray) -> bool:
    """Whether each channel of (H, W, C) has two values at most: a drawing, or in halftone."""
    for part in (x[:1], x):  # the first row says it of most pictures
        if not np.all((part == part.min((0, 1))) | (part == part.max((0, 1)))):
            return False
    return True


def block_means(x: np.ndarray, side: int) -> np.ndarray:
    """Means over blocks of side x side (less where x is smaller): (n, C) of (H, W, C)."""
    high, wide = (min(side, length) for length in x.shape[:2])
    rows, columns = x.shape[0] // high, x.shape[1] // wide
    whole = x[: rows * high, : columns * wide].reshape(rows, high, -1)
    sums = whole.sum(axis=1, dtype=np.float32).reshape(rows * columns, wide, -1).sum(axis=1)
    return sums / np.float32(high * wide)


def _sums(x: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Sums of `width` neighbours along an axis, which gets shorter by width - 1."""
    count = x.shape[axis] - width + 1

    def part(array: np.ndarray, first: int, length: int) -> np.ndarray:
        return array[(slice(None),) * axis + (slice(first, first + length),)]

    total = part(x, 0, count).copy()  # widths are odd
    first, size, sums = 1, 1, x  # `sums` are of `size` neighbours
    while 2 * size <= width:
        length = sums.shape[axis] - size
        sums = part(sums, 0, length) + part(sums, size, length)
        size *= 2
        if width & size:
            total += part(sums, first, count)
            first += size
    return total
