"""What is done to a network's result: less of it, texture put back, black and white mended.

Pictures are float, (H, W, C); what looks around a pixel looks `REACH` pixels far.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from sa_flax.inference import clipping
from sa_flax.inference.box import block_means, box_means, channel_means, has_two_values

# How far `texture` looks: a wavelet of 2 pixels, and means over the wider windows, taken twice.
_WIDTHS = (5, 11)
REACH = max(2 + 2 * (_WIDTHS[1] // 2), clipping.REACH)
# Sides of the blocks over which the noise in either band is measured.
_BLOCKS = (8, 12)
# Groups of blocks by brightness, and how many a group has at least.
_GROUPS, _LEAST = 8, 20
# How many times more than a sensor's the power of noise may rise with brightness, seen from groups
# that are no darker than this and have no more than this share of black.
_RISES, _DARK, _BLACK = 16.0, 0.06, 0.05
# Noise is alike in all blocks of this side, texture is not: noise has at most so many times the
# power that was removed from the fiftieth with least of them.
_SIDE, _FIFTIETH, _ALIKE = 16, 0.02, 32.0
# And where it is faint, up to that standard deviation, about as much as from a quarter of them.
_QUARTER, _AS_MUCH, _FAINT = 0.25, 0.9, 4.0 / 255
# Up to that standard deviation it would not be seen and is not worth the risk, all the less where
# the fiftieth has less than a sixth of the rest.
_UNSEEN, _UNEVEN = 1.2 / 255, 6.0
# Blocks with more than this share of their pixels at a limit, and those with less than this
# standard deviation (a frame, a drawing), do not tell.
_AT_LIMIT, _BLANK = 0.05, 0.3 / 255
# What is removed is texture where it has more than this many times the power that is usual.
_TOLERATED = 2.0
# Steps of brightness at which the noise is looked up.
_STEPS = 1024
# Pixels that are looked at at once, but for what they share with the next.
_STRIP = 2**18
# Brightness and two colours, orthonormal, so that white noise has the same power in each.
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
_OPPONENT /= np.linalg.norm(_OPPONENT, axis=1, keepdims=True)


def _bands(noisy: np.ndarray, clean: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """What was removed, fine and coarse, and how bright the result is.

    Returns:
      Two (H, W, C) arrays whose sum is `noisy - clean`, in brightness and colours where it has
      three channels: the finest scale of the undecimated wavelet with the B3 spline
      [1 4 6 4 1] / 16, and the rest. And (H, W): mean of the channels of `clean`, smoothed.
    """
    from scipy.ndimage import correlate1d  # not at every start

    removed = noisy - clean
    if removed.shape[-1] == 3:
        removed = removed @ _OPPONENT.T
    spline = np.array([1, 4, 6, 4, 1], np.float32) / 16
    coarse = removed
    for axis in (0, 1):
        coarse = correlate1d(coarse, spline, axis=axis, mode="mirror")
    brightness = box_means(channel_means(clean), _WIDTHS[0])
    return [removed - coarse, coarse], brightness


@dataclasses.dataclass(frozen=True)
class _Groups:
    """Blocks of like brightness: `light` of each block, and their indices, the darkest first."""

    light: np.ndarray
    indices: list[np.ndarray]

    @classmethod
    def of(cls, light: np.ndarray) -> "_Groups":
        count = min(max(len(light) // _LEAST, 1), _GROUPS)
        return cls(light, np.array_split(np.argsort(light), count))

    def quantile(self, x: np.ndarray, q: float) -> np.ndarray:
        """Of each group's blocks: (groups, ...) of (blocks, ...)."""
        return np.stack([np.quantile(x[group], q, axis=0) for group in self.indices])

    def by_level(self, x: np.ndarray) -> np.ndarray:
        """(1024, ...) of (groups, ...): between their brightnesses on a line."""
        at = [self.light[group].mean() for group in self.indices]
        levels = np.linspace(0, 1, _STEPS)
        columns = x.reshape(len(at), -1).T
        between = np.stack([np.interp(levels, at, column) for column in columns], axis=-1)
        return between.reshape(_STEPS, *x.shape[1:]).astype(np.float32)


def _no_texture(usual: np.ndarray, light: np.ndarray, black: np.ndarray) -> np.ndarray:
    """`usual`, but where light places have far more than dark ones: that is no sensor's noise.

    Photons arrive at random, so that the power of their noise rises in proportion to brightness,
    and by less where there is other noise or a tone curve. Gravel in the sun rises by more.

    Args:
      usual: (groups, C), mean square in each group of blocks, the darkest first.
      light: how bright each is.
      black: its share of black pixels; clipped noise has less power there.
    """
    usual = usual.copy()
    clear = (light > _DARK) & (black < _BLACK)
    for group in range(1, len(light)):
        darker = np.flatnonzero(clear[:group])
        most = _RISES * usual[darker].sum(-1) * light[group] / light[darker]
        usual[group] *= np.min(most / np.maximum(usual[group].sum(), 1e-12), initial=1)
    return usual


def _least(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Power that was removed from the fiftieth and the quarter of the blocks with least.

    Returns:
      Two (1024, 1) arrays, by brightness; infinite where too few blocks tell.
    """

    def of_blocks(parts: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([block_means(part, _SIDE).mean(axis=-1) for part in parts])

    at_limit = of_blocks(((x <= 0) | (x >= 1)).astype(np.float32) for x, _ in pairs)
    light = [channel_means(x)[..., None] for x, _ in pairs]
    spread = of_blocks(np.square(x) for x in light) - np.square(of_blocks(light))
    tells = (at_limit < _AT_LIMIT) & (spread > _BLANK**2)
    if tells.sum() < _LEAST:
        return (np.full((_STEPS, 1), np.inf, np.float32),) * 2
    groups = _Groups.of(of_blocks(y for _, y in pairs)[tells])
    removed = of_blocks(np.square(x - y) for x, y in pairs)[tells]
    fiftieth, quarter = (
        groups.by_level(groups.quantile(removed, q)[:, None]) for q in (_FIFTIETH, _QUARTER)
    )
    return fiftieth, quarter


@dataclasses.dataclass(frozen=True)
class Removed:
    """How much a denoiser usually takes away from a picture, by brightness: the picture's noise.

    Of the blocks of a picture, those of like brightness are expected to have like noise, of
    whatever level, colour and grain. Most of them are smooth enough to have lost nothing else, so
    the median over them of the power that was removed is the noise's; but where it is far above
    what some of them have lost, or dark places, it is texture's, and where it is faint, so is most
    of what is above the loss of a quarter of them:

        N = (0.9 P_quarter / P_median)^2 P_median.

    All is in a picture of two values, which no noise leaves: drawn, or printed in halftone.

    Attributes:
      power: for the fine and the coarse band, (1024, C): mean square at a brightness from 0 to 1.
      doubtful: the share of it that is not worth the risk: all where it would not be seen and is
        not alike in all blocks.
    """

    power: tuple[np.ndarray, np.ndarray]
    doubtful: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> "Removed":
        """From one or more parts of a picture, each (noisy, clean), (H, W, C)."""
        if all(has_two_values(noisy) for noisy, _ in pairs):  # no noise leaves that
            nothing = np.zeros((_STEPS, pairs[0][0].shape[-1]), np.float32)
            return cls((nothing, nothing), doubtful=1.0)
        measured = [_bands(noisy, clean) for noisy, clean in pairs]

        def over_blocks(parts: Iterable[np.ndarray], side: int) -> np.ndarray:
            return np.concatenate([block_means(part, side) for part in parts])

        power = []
        for band, side in enumerate(_BLOCKS):
            squares = over_blocks((np.square(bands[band]) for bands, _ in measured), side)
            black = over_blocks((channel_means(x <= 0)[..., None] for x, _ in pairs), side)
            light = over_blocks((b[..., None] for _, b in measured), side)[:, 0]
            groups = _Groups.of(light)
            usual, at, dark = (groups.quantile(x, 0.5) for x in (squares, light, black[:, 0]))
            power.append(groups.by_level(_no_texture(usual, at, dark)))
        fiftieth, quarter = (np.maximum(x, 1e-12) for x in _least(pairs))
        total = np.maximum(sum(part.mean(axis=-1, keepdims=True) for part in power), 1e-12)
        noise = np.minimum(total, _ALIKE * fiftieth)
        whole, lost = (np.take(x, _level(light)).mean() for x in (noise, fiftieth))
        doubtful = np.square(_UNSEEN**2 / whole * np.minimum(whole / (_UNEVEN * lost), 1))
        uneven = 1 - np.square(np.minimum(_AS_MUCH * quarter / noise, 1))
        noise *= 1 - uneven * np.minimum(_FAINT**2 / noise, 1)
        fine, coarse = (part * noise / total for part in power)
        return cls((fine, coarse), min(float(doubtful), 1.0))

    def deviation(self, clean: np.ndarray) -> np.ndarray:
        """Standard deviation of it in a channel, at each pixel of `clean`: (H, W, 1)."""
        total = sum(power.mean(axis=-1) for power in self.power)
        return np.take(np.sqrt(total), _level(channel_means(clean)))[..., None]


def _level(brightness: np.ndarray) -> np.ndarray:
    """Where `Removed.power` holds a brightness."""
    return np.clip(brightness * (_STEPS - 1) + 0.5, 0, _STEPS - 1).astype(np.int32)


def texture(noisy: np.ndarray, clean: np.ndarray, usual: Removed) -> np.ndarray:
    """What a denoiser took for noise and is likely none, (H, W, C).

    Where the power P of what was removed, around a pixel, is above that of the noise, N, the rest
    is texture; of both together the best linear estimate of the texture is

        max(1 - 2 N / P, 0) * (noisy - clean),

    Wiener's, with twice the noise, since P is known from few pixels. It is taken in two bands, fine
    and coarse, of brightness and of two colours each, and P as a mean over 5 x 5 and 11 x 11
    pixels, taken twice. Of the rest, the share that is `doubtful` is put back, too.

    Args:
      noisy, clean: (H, W, C) float.
      usual: what was removed of this picture in most places.
    """
    bands, brightness = _bands(noisy, clean)
    level = _level(brightness)  # looked up by `take`, a quarter of the time of power[level]
    kept = np.zeros_like(bands[0])
    for band, power, width in zip(bands, usual.power, _WIDTHS, strict=True):
        around = np.square(band)
        for _ in range(2):
            around = box_means(around, width)
        noise = np.take(_TOLERATED * power, level, axis=0)
        kept += band * np.maximum(1 - noise / np.maximum(around, 1e-12), 0)
    kept += np.float32(usual.doubtful) * (bands[0] + bands[1] - kept)
    return kept @ _OPPONENT if kept.shape[-1] == 3 else kept


@dataclasses.dataclass(frozen=True)
class Finish:
    """Strength, kept detail and clipping: `finish(noisy, clean) -> result`, (H, W, C) float.

        clean' = clean + keep_detail * texture(noisy, clean) + declip * mended(noisy, clean)
        result = noisy + strength * (clean' - noisy)

    Attributes:
      strength: how much of the noise to take away, 0 to 1.
      keep_detail: how much of `texture` to put back, 0 to 1.
      declip: whether to add what `sa_flax.inference.clipping.mended` says.
      usual: what was removed of this picture in most places.

    Raises:
      ValueError: for numbers outside of [0, 1].
    """

    strength: float = 1.0
    keep_detail: float = 0.0
    declip: bool = False
    usual: Removed | None = None

    def __post_init__(self):
        for name in ("strength", "keep_detail"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # NaN neither
                raise ValueError(f"{name} goes from 0 to 1; got {value!r}.")

    @property
    def looks_around(self) -> bool:
        """Whether the result of a pixel depends on pixels around it, up to `REACH` away."""
        return self.keep_detail > 0 or self.declip

    def after(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> "Finish":
        """Told what was removed from the picture, or from parts of it: each (noisy, clean)."""
        return dataclasses.replace(self, usual=Removed.of(pairs)) if self.looks_around else self

    def __call__(self, noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
        if self.looks_around:
            clean = clean + self._added(noisy, clean)
        if self.strength == 1:
            return clean
        return noisy + np.float32(self.strength) * (clean - noisy)

    def _added(self, noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """By strips of rows: texture alone takes some fifteen arrays of their size."""
        assert self.usual is not None, "call `after` first"
        added = np.zeros_like(clean)
        rows = max(_STRIP // clean.shape[1], REACH)
        for first in range(0, len(clean), rows):
            above = min(first, REACH)
            seen = slice(first - above, first + rows + REACH)
            inner, strip = slice(above, above + rows), added[first : first + rows]
            pair = noisy[seen], clean[seen]
            if self.keep_detail > 0:
                strip += np.float32(self.keep_detail) * texture(*pair, self.usual)[inner]
            if self.declip:
                strip += clipping.mended(*pair, self.usual.deviation(pair[1]))[inner]
        return added
