"""Pictures of any size through tiles of few sizes, in bounded memory.

A tile's result is exact but for a margin along the sides where the picture goes on: the network's
receptive radius. Tiles overlap by two margins, and each pixel is taken from a tile in which it is
exact, so the whole is what the network makes of the whole picture. Where tiles can't be exact
(attention between all positions of a tile) they overlap by a ramp besides, over which one is faded
into the next: `a + w * (b - a)`, which is a where a and b agree.

Tiles start at multiples of the network's stride, as the picture's own upper left corner does.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

# What compiling for another size of tile costs, in pixels that could be denoised in that time.
_COMPILING = 400_000
# The first tile's sides are at least so long: what that wastes is a tenth of compiling.
_FIRST = 192
# Larger tiles save nothing more.
_ENOUGH = 1536 * 1024
_SIDES = (*range(64, 512, 32), 512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1536)
_LARGER = (2048, 2560, 3072, 4096, 5120, 6144, 8192, 10240, 12288, 16384)


@dataclasses.dataclass(frozen=True)
class Span:
    """A tile along one axis: where it starts, and the pixels [low, high) over which it takes over
    from the one before (none: it takes over at `low`)."""

    start: int
    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Tiles of one size that cover a picture of (height, width)."""

    picture: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def count(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def cost(self) -> int:
        """Pixels that go through the network."""
        return self.count * self.tile[0] * self.tile[1]

    @property
    def valid(self) -> tuple[int, int]:
        """(height, width) of the picture on a tile: all of it, or the picture where it is less."""
        return min(self.picture[0], self.tile[0]), min(self.picture[1], self.tile[1])


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How tiles of a network must overlap: `margin` pixels along a side are not exact; they fade
    over `ramp` pixels; they start at multiples of `stride`."""

    margin: int
    ramp: int
    stride: int

    @classmethod
    def of(cls, radius: int, stride: int, *, ramp: int = 0) -> "Overlap":
        """For a receptive radius; margin and ramp are rounded up to multiples of the stride."""
        return cls(-(-radius // stride) * stride, -(-ramp // stride) * stride, stride)

    def step(self, tile: int) -> int:
        """From one tile to the next; not positive where tiles of this size can't be joined."""
        return tile - 2 * self.margin - self.ramp

    def count(self, length: int, tile: int) -> int:
        """Tiles that cover an axis of `length` pixels; 0 where they are too small to be joined.

        Of tiles little larger than two margins nearly all would be overlap.
        """
        if length <= tile:
            return 1
        step = self.step(tile)
        if step < max(self.stride, self.margin // 2):
            return 0
        return 1 + -(-(length - tile) // step)

    def spans(self, length: int, tile: int) -> tuple[Span, ...]:
        """The tiles of an axis, all inside where it is longer than one."""
        count, step = self.count(length, tile), self.step(tile)
        starts = [min(index * step, length - tile) if index else 0 for index in range(count)]
        spans = [Span(0, 0, 0)]
        for before, start in itertools.pairwise(starts):
            spare = before + tile - start - 2 * self.margin - self.ramp
            low = start + self.margin + spare // 2
            spans.append(Span(start, low, low + self.ramp))
        return tuple(spans)

    def plan(self, height: int, width: int, tile: tuple[int, int]) -> Plan:
        """The plan with tiles of this size."""
        return Plan((height, width), tile, self.spans(height, tile[0]), self.spans(width, tile[1]))


class Planner:
    """Chooses the size of tiles: cheap for the picture, within memory, and few sizes in all.

    A size that has been used is used again, although another would fit better. What each other
    size would have saved so far is summed; one that would have paid for compiling it is taken up.
    So what is compiled suits the pictures seen, not the last one alone. Results are the same with
    every size.

    Args:
      overlap: of tiles.
      whole: prefer a single tile wherever it fits into memory, at any cost in canvas.
    """

    def __init__(self, overlap: Overlap, *, whole: bool = False):
        self.overlap, self.whole = overlap, whole
        self._sides = self._rounded(_SIDES + (_LARGER if whole else ()))
        # By height and width of the tile: pixels that it would have saved.
        self._saved = np.zeros((len(self._sides), len(self._sides)))
        self._used = np.zeros(self._saved.shape, bool)

    def plan(self, height: int, width: int, *, room: float, per_pixel: float) -> Plan:
        """A plan for a picture whose sides are multiples of the stride.

        Args:
          height, width: of the picture.
          room: bytes for a tile and what is made of it.
          per_pixel: bytes that the network takes for each pixel of a tile.
        """
        cost = self._costs(height, width, room=room, per_pixel=per_pixel)
        again = np.min(cost, where=self._used, initial=np.inf)
        if np.isinf(again):
            # A small picture on a larger canvas costs little beside compiling for the next one.
            first = (self._sides < _FIRST)[:, None] | (self._sides < _FIRST)
            roomy = np.where(first, np.inf, cost)
            best = np.unravel_index(np.argmin(cost if np.isinf(roomy).all() else roomy), cost.shape)
            self._used[best] = True
        else:
            self._saved += np.maximum(again - cost, 0)
            best = np.unravel_index(np.argmax(self._saved), cost.shape)
            if self._saved[best] > _COMPILING:
                self._saved[:] = 0
                self._used[best] = True
        chosen = np.unravel_index(np.argmin(np.where(self._used, cost, np.inf)), cost.shape)
        tile = int(self._sides[chosen[0]]), int(self._sides[chosen[1]])
        return self.overlap.plan(height, width, tile)

    def _costs(self, height: int, width: int, *, room: float, per_pixel: float) -> np.ndarray:
        """Pixels through the network for each (height, width) of tiles; infinite: won't do."""
        sides, area = self._sides, np.multiply.outer(self._sides, self._sides)
        rows = np.array([self.overlap.count(height, int(side)) for side in sides])
        columns = np.array([self.overlap.count(width, int(side)) for side in sides])
        count = np.multiply.outer(rows, columns)
        # Twice, as memory of one tile is given back while the next is at work already. Besides, a
        # strip of the result as high as the tile, in float32 of up to 4 channels.
        fits = (count > 0) & (sides[:, None] * (2 * sides * per_pixel + 16 * width) <= room)
        if self.whole and (fits & (count == 1)).any():
            fits &= count == 1
        elif (fits & (area <= _ENOUGH)).any():
            fits &= area <= _ENOUGH
        elif not fits.any():
            # With too little memory for any: the smallest there is.
            fits = (count > 0) & (area == np.min(area, where=count > 0, initial=np.iinfo(int).max))
        return np.where(fits, count * area, np.inf)

    def _rounded(self, sides: tuple[int, ...]) -> np.ndarray:
        stride, least = self.overlap.stride, 2 * self.overlap.margin + self.overlap.ramp
        rounded = {-(-side // stride) * stride for side in sides}
        # A wide margin (a window) needs tiles that are larger than it.
        rounded |= {(least // stride + 1) * stride * factor for factor in (2, 4)}
        return np.array(sorted(rounded))


def denoise_in_tiles(
    plan: Plan,
    read: Callable[[int, int], np.ndarray],
    network: Callable[[np.ndarray], np.ndarray],
    write: Callable[[int, np.ndarray], None],
    done: Callable[[], None],
) -> None:
    """Reads tiles, denoises them, joins the results and writes them.

    Args:
      plan: the tiles.
      read: (row, column) of a tile's corner -> the tile.
      network: a tile -> its result, (h, w, C) float32, at least `plan.valid` large.
      write: takes the first row's number and finished rows, (n, W, C) float32.
      done: called after each tile.
    """
    height, width = plan.picture
    fading: np.ndarray | None = None  # what the strip above makes of the rows of the next ramp
    for index, row in enumerate(plan.rows):
        strip: np.ndarray | None = None
        rows = min(plan.tile[0], height)
        for column in plan.columns:
            y = network(read(row.start, column.start))[:rows]
            if strip is None:
                strip = np.empty((rows, width, y.shape[-1]), np.float32)
            end = min(column.start + plan.tile[1], width)
            y = y[:, : end - column.start]
            _fade(strip[:, column.low : column.high], y[:, column.low - column.start :], axis=1)
            strip[:, column.high : end] = y[:, column.high - column.start :]
            done()
        assert strip is not None
        if fading is not None and row.high > row.low:
            part = strip[row.low - row.start : row.high - row.start]
            _fade(fading, part, axis=0)
            part[:] = fading
        last = index + 1 == len(plan.rows)
        until = height if last else plan.rows[index + 1].low
        write(row.low, strip[row.low - row.start : until - row.start])
        if not last:
            following = plan.rows[index + 1]
            fading = strip[following.low - row.start : following.high - row.start].copy()


def _fade(before: np.ndarray, after: np.ndarray, *, axis: int) -> None:
    """Fades `before` into the first pixels of `after` along an axis, in place."""
    length = before.shape[axis]
    if not length:
        return
    weight = (np.arange(length, dtype=np.float32) + 0.5) / np.float32(length)
    weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    after = after[:length] if axis == 0 else after[:, :length]
    before += weight * (after - before)
