"""When a network for every noise hands a picture to one that knows white noise only.

A network that has learned every kind of noise is worse at white noise than one of its size that has
learned nothing else: `photo` by 1.4 to 1.8 dB, against `color` and `gray`. So where the noise of a
picture turns out to be white, those denoise it. Two questions are asked, of what the network for
every noise has removed (noisy - clean), in blocks where little is clipped:

1. Is it white? Neighbouring pixels and the channels must hardly go together.
2. Does the specialist leave no noise? Of a JPEG's noise it leaves nearly all. Where its result and
   the other one's differ by a share a of the noise, that difference goes together with what it
   removes, the share 1 - a:

       mean((specialist - clean) (noisy - specialist)) / mean((noisy - specialist)^2) = a / (1 - a).

   Where they differ because the other one has taken texture for noise, it is about 0.

How much noise there is may depend on brightness, as a sensor's does, but not by more than a factor
of three: specialists look at each place for itself, and yet take texture for noise where there is
next to none.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sa_flax.inference.box import has_two_values

Pair = tuple[np.ndarray, np.ndarray]

# Side of the parts that a specialist is tried on, and how many at most.
PART, _PARTS = 128, 4
# Blocks: their side, how many there have to be, and the share of their values that may be at a
# limit; and groups of them by brightness.
_BLOCK, _LEAST, _AT_LIMIT, _GROUPS = 16, 20, 0.2, 6
# White noise that photo removed from 130 pictures had correlations of 0.02 to 0.17 between
# neighbours (it removes some texture, too) and up to 0.2 between channels; noise of cameras 0.2 and
# more between neighbours, that of JPEGs with subsampled chroma 0.6 and more between channels.
_NEIGHBOURS, _CHANNELS = 0.2, 0.35
# Standard deviation below which there is little to gain, of 1.
_FAINT = 3 / 255
# How much stronger noise may be at one brightness than at another.
_UNEVEN = 3.0
# That ratio by the number of channels, in the quarter of the blocks that differ least: up to 0.05
# for the white noise of those pictures, mostly below 0, and 0.01 more since specialists are trained
# by weighted_mse; 0.08 to 3 for other noise. With gates in every block (`gray`) up to 0.126, and
# 0.15 to 11. And the share of the values that may be at a limit: clipped noise has another mean,
# which can be mended up to there.
_LEFT, _CLIPPED = {1: 0.135, 3: 0.07}, 0.2
_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))


def _blocks(x: np.ndarray) -> np.ndarray:
    """(n, 16, 16, C) of (H, W, C)."""
    rows, columns = x.shape[0] // _BLOCK, x.shape[1] // _BLOCK
    cut = x[: rows * _BLOCK, : columns * _BLOCK]
    cut = cut.reshape(rows, _BLOCK, columns, _BLOCK, x.shape[2]).swapaxes(1, 2)
    return cut.reshape(rows * columns, _BLOCK, _BLOCK, x.shape[2])


def _clear(pairs: Iterable[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """The blocks where little is clipped, noisy and clean: (n, 16, 16, C) each."""
    noisy, clean = (np.concatenate([_blocks(x) for x in part]) for part in zip(*pairs, strict=True))
    clear = np.mean((noisy == 0) | (noisy == 1), axis=(1, 2, 3)) < _AT_LIMIT
    return noisy[clear], clean[clear]


def _power(x: np.ndarray) -> np.ndarray:
    """Mean square of each block, (n,)."""
    return np.mean(x**2, axis=(1, 2, 3))


def _typical(a: np.ndarray, b: np.ndarray, power: np.ndarray) -> float:
    """Largest of the channels' median correlations over blocks; `power` is (n, C)."""
    correlation = np.mean(a * b, axis=(1, 2)) / np.maximum(power, 1e-12)
    return float(np.abs(np.median(correlation, axis=0)).max())


def _between_neighbours(x: np.ndarray) -> float:
    """How much neighbouring pixels go together in (n, 16, 16, C), 0 to 1."""
    x = x - x.mean(axis=(1, 2), keepdims=True)
    power = np.mean(x**2, axis=(1, 2))
    return max(
        _typical(x[:, down:, across:], x[:, : _BLOCK - down, : _BLOCK - across], power)
        for down, across in _LAGS
    )


def _between_channels(x: np.ndarray) -> float:
    """How much any two of the channels go together in (n, 16, 16, C), 0 to 1."""
    if x.shape[-1] == 1:
        return 0.0
    x = x - x.mean(axis=(1, 2), keepdims=True)
    power = np.mean(x**2, axis=(1, 2))
    # Each with the one before it, the first with the last: of three, every two.
    before = np.roll(np.arange(x.shape[-1]), 1)
    return _typical(x, x[..., before], np.sqrt(power * power[:, before]))


def looks_white(pairs: Sequence[Pair]) -> bool:
    """Whether what was removed from a picture, or from parts of it, looks like white noise.

    That is: the medians over blocks of the correlations at the lags (0, 1), (1, 0), (1, 1), (0, 2)
    and (2, 0) in each channel, and between any two channels, are small. False for noise that is
    faint or depends much on brightness, and where nearly everything is clipped or has two values.

    Args:
      pairs: (noisy, clean), each (H, W, C) in [0, 1].
    """
    noisy, clean = _clear(pairs)
    if len(noisy) < _LEAST or all(has_two_values(x) for x, _ in pairs):
        return False
    removed = noisy - clean
    power, light = _power(removed), clean.mean(axis=(1, 2, 3))
    groups = np.array_split(np.argsort(light), min(len(light) // _LEAST, _GROUPS))
    levels = np.sqrt([np.median(power[group]) for group in groups])
    return bool(
        np.median(power) >= _FAINT**2
        and levels.max() <= _UNEVEN * levels.min()
        and _between_neighbours(removed) < _NEIGHBOURS
        and _between_channels(removed) < _CHANNELS
    )


def leaves_no_noise(pairs: Sequence[Pair], specialist: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Whether a specialist removes from these parts what is noise in what was removed.

    Args:
      pairs: (noisy, clean) by the network for every noise, each (H, W, C).
      specialist: (H, W, C) -> (H, W, C).
    """
    noisy, clean = _clear(pairs)
    clipped = np.mean([np.mean((x == 0) | (x == 1)) for x, _ in pairs])
    if not len(noisy) or clipped > _CLIPPED:
        return False
    _, theirs = _clear([(x, specialist(x)) for x, _ in pairs])
    differ = _power(theirs - clean) / np.maximum(_power(noisy - clean), 1e-12)
    least = np.argsort(differ)[: -(-len(differ) // 4)]
    removed, left = noisy[least] - theirs[least], theirs[least] - clean[least]
    together = np.mean(left * removed, axis=(1, 2, 3)) / np.maximum(_power(removed), 1e-12)
    return bool(np.median(together) < _LEFT[noisy.shape[-1]])


def parts_of(pairs: Sequence[Pair]) -> list[Pair]:
    """At most four parts of 128 x 128 pixels; none of pictures smaller than that.

    Args:
      pairs: the whole picture, (noisy, clean), or parts of it that are spread over it.
    """
    if len(pairs) > 1:
        chosen = [pairs[round(i * (len(pairs) - 1) / (_PARTS - 1))] for i in range(_PARTS)]
        return [(noisy[:PART, :PART], clean[:PART, :PART]) for noisy, clean in chosen]
    height, width = pairs[0][0].shape[:2]
    if min(height, width) < PART:
        return []
    rows, columns = ({(length - PART) // 5, (length - PART) * 4 // 5} for length in (height, width))
    places = [np.s_[row : row + PART, column : column + PART] for row in rows for column in columns]
    return [(noisy[place], clean[place]) for noisy, clean in pairs for place in places]
