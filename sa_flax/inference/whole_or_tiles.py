"""Runs a network over one picture: in tiles where the network allows it, whole where not."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sa_flax.functional.canvas import Canvas, on_canvas
from sa_flax.inference import memory as bytes_
from sa_flax.inference.rows import Rows
from sa_flax.inference.tiling import Overlap, Planner, denoise_in_tiles
from sa_flax.modules.affinities import DANet, NonLocal, SelfAttention

Forward = Callable[[Any, jax.Array, Any], jax.Array]
Report = Callable[[int, int], None]
# What a network was given and what it made of it, each (H, W, C).
Pair = tuple[np.ndarray, np.ndarray]
# What a network's result at a pixel depends on: pixels near it ("local"); besides, statistics of
# the whole picture ("pooled") or of a window ("windowed"); all pixels ("everywhere"); not known.
Kind = Literal["local", "pooled", "windowed", "everywhere", "unknown"]

# Beside tiles and pictures: what compiling takes for a while, and small arrays.
_RESERVE = 250 * 2**20
# Parts of a picture, each way, that statistics are estimated from; and their sides where it is
# not a network's statistics but what it removes that is looked at.
_PARTS = 4
_LOOKED_AT = 128
# Windows of attention's statistics that add up to more are looked at one by one.
_FURTHEST = 256
# Pixels of a picture that is held as a whole before anything is done to the result.
_HELD = 2**20


def ignore(done: int, total: int) -> None:
    """A report that nobody reads."""


def kind_of(model: nnx.Module) -> Kind:
    """See `Kind`."""
    if not isinstance(getattr(model, "receptive_radius", None), int):
        return "unknown"
    layers = [layer for _, layer in nnx.iter_modules(model)]
    if any(isinstance(layer, DANet | NonLocal | SelfAttention) for layer in layers):
        return "everywhere"
    windows = [layer.window for layer in layers if hasattr(layer, "window")]
    if not windows:
        return "local"
    return "pooled" if None in windows else "windowed"


def _radius_of(model: nnx.Module) -> int:
    """What tiles of a network's pictures overlap by on each side, 0 where it says nothing."""
    radius: int = getattr(model, "receptive_radius", 0)
    if radius > _FURTHEST:
        radius = getattr(model, "effective_radius", radius)
    return radius


class Engine:
    """Compiled functions of one network, and how pictures go through them.

    Args:
      model: the network, for what it says of itself.
      forward: (state, noisy (B, H, W, C), sigma) -> clean.
      memory: bytes, or a text, that the process should stay within; None for half of what is free.
      rows: the devices that pictures are split over, which then go through whole.
    """

    def __init__(
        self, model: nnx.Module, forward: Forward, *, memory: str | int | None, rows: Rows | None
    ):
        self.kind = kind_of(model)
        self.stride: int = getattr(model, "stride", 1)
        self.radius = _radius_of(model)
        self.channels: int = model.channels  # type: ignore[attr-defined]
        self.takes_noise_level: bool = getattr(model, "noise_level", False)
        self._budget = None if memory is None else bytes_.parse_bytes(memory)
        self._held = bytes_.resident()
        self._per_pixel: float | None = None
        self._planners: dict[tuple[int, bool], Planner] = {}
        self._forward = forward
        self._whole = jax.jit(forward)
        self._rows = rows
        self.split = self._whole if rows is None else jax.jit(forward, out_shardings=rows.sharding)

        def on_tile(state, tile, valid, sigma, given):
            height, width = tile.shape[1:3]
            canvas = Canvas(height, width, valid, given=None if given is None else iter(given))
            with on_canvas(canvas):
                return forward(state, tile, sigma)

        def look(state, parts, sigma):
            height, width = parts.shape[1:3]
            valid = jnp.asarray((height, width), jnp.int32)
            with on_canvas(Canvas(height, width, valid, over_batch=True)) as canvas:
                forward(state, parts, sigma)
            return tuple(canvas.noted)

        self._on_tile, self._look = jax.jit(on_tile), jax.jit(look)

    def run(
        self,
        state: Any,
        noisy: np.ndarray,
        sigma: float | None,
        *,
        convert: Callable[[np.ndarray], np.ndarray],
        back: Callable[[np.ndarray, np.ndarray], np.ndarray],
        write: Callable[[int, np.ndarray], None],
        look: Callable[[list[Pair]], bool] | None,
        reach: int,
        self_ensemble: bool,
        report: Report,
    ) -> None:
        """Denoises one picture.

        Args:
          state: the network's variables.
          noisy: the picture, (H, W, C) of any kind.
          sigma: what the network is told, or None.
          convert: a part of `noisy` -> what the network takes, (h, w, channels) float32.
          back: the network's input and output, each (h, w, channels) -> a part of the result.
          write: takes the first row's number, and rows of the result; rows and columns beyond the
            picture's are to be left out.
          look: is called before `back` with the network's input and output of the whole picture,
            where that has at most a megapixel, else of sixteen parts spread over it: the same for
            all tiles. False ends the work there, before anything is written.
          reach: how many pixels around one `back` looks at.
          self_ensemble: mean over flips and rotations.
          report: called after each tile.
        """
        room = self._room(noisy)
        if self._goes_whole(state, noisy.shape[0] * noisy.shape[1], room):
            x = convert(noisy)
            y = _ensembled(lambda part: self._all(state, part, sigma), self_ensemble)(x)
            report(1, 1)
            if look is None or look([(x, y)]):
                write(0, back(x, y))
            return
        picture = _continued(noisy, self.stride)
        height, width = picture.shape[:2]
        held = look is not None and height * width <= _HELD
        plan = self._planner(0 if held else reach).plan(
            height, width, room=room, per_pixel=self._bytes_per_pixel(state)
        )
        given = None
        if self.kind == "pooled" and plan.count > 1:
            given = self._look(state, self._parts(picture, plan.tile, convert), sigma)
        if look is not None and not held:
            parts = self._parts(picture, (_PARTS * _LOOKED_AT,) * 2, convert)
            # One by one: sixteen at once would take as much memory as a large tile.
            if not look([(part, self.at_once(state, part, sigma)) for part in parts]):
                return

        def on_canvas_of(tile: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
            def network(part: np.ndarray) -> np.ndarray:
                h, w = part.shape[:2]
                side = tile if (h, w) == plan.valid else tile[::-1]  # turned
                if self.kind == "windowed":  # windows would see what is beyond the picture
                    side = (h, w)
                canvas = np.zeros((1, *side, part.shape[-1]), np.float32)
                canvas[0, :h, :w] = part
                valid = np.array((h, w), np.int32)
                return np.asarray(self._on_tile(state, canvas, valid, sigma, given))[0, :h, :w]

            return network

        raw = _ensembled(on_canvas_of(plan.tile), self_ensemble)

        def read(row: int, column: int) -> np.ndarray:
            h, w = plan.valid
            return convert(picture[row : row + h, column : column + w])

        count = iter(range(1, plan.count + 1))

        def done() -> None:
            report(next(count), plan.count)

        if not held:
            denoise_in_tiles(plan, read, lambda x: back(x, raw(x)), write, done)
            return
        assert look is not None
        x, y = convert(noisy), np.empty((*noisy.shape[:2], self.channels), np.float32)

        def hold(first: int, rows: np.ndarray) -> None:
            rows = rows[: len(y) - first, : y.shape[1]]
            y[first : first + len(rows)] = rows

        denoise_in_tiles(plan, read, raw, hold, done)
        if look([(x, y)]):
            write(0, back(x, y))

    def at_once(self, state: Any, x: np.ndarray, sigma: float | None) -> np.ndarray:
        """(H, W, channels) through the network, not in tiles."""
        return np.asarray(self._whole(state, x[None], sigma))[0]

    def _goes_whole(self, state: Any, pixels: int, room: float) -> bool:
        if self._rows is not None or self.kind == "unknown":
            return True
        if self.kind not in ("windowed", "everywhere"):
            return False
        return 2 * pixels * (self._bytes_per_pixel(state) + 16) <= room

    def _all(self, state: Any, x: np.ndarray, sigma: float | None) -> np.ndarray:
        """(H, W, channels) through the network, split over the devices where there are some."""
        if self._rows is None:
            return self.at_once(state, x, sigma)
        return self._rows.run(lambda picture: self.split(state, picture, sigma), x)

    def _planner(self, reach: int) -> Planner:
        # Tiles that see nothing but themselves are faded into each other.
        ramp = 64 if self.kind == "everywhere" else 0
        key = (reach, self.kind == "pooled")
        if key not in self._planners:
            overlap = Overlap.of(self.radius + reach, self.stride, ramp=ramp)
            self._planners[key] = Planner(overlap, whole=self.kind == "pooled")
        return self._planners[key]

    def _room(self, noisy: np.ndarray) -> float:
        """Bytes for a tile, beside what is held anyhow: the process, the picture, its result."""
        device = jax.local_devices()[0].memory_stats() or {}
        if self._budget is None and "bytes_limit" in device:
            return 0.5 * device["bytes_limit"]
        if self._budget is None:
            return 0.5 * bytes_.free()
        # The picture was there before, or has come since: it is counted once more than needed.
        return 0.85 * (self._budget - self._held - 2 * noisy.nbytes - _RESERVE)

    def _bytes_per_pixel(self, state: Any) -> float:
        if self._per_pixel is None:
            # Larger than a window: its statistics are maps then. Nothing is computed.
            side = 4 * self.radius if self.kind == "windowed" else 64
            side = -(-side // self.stride) * self.stride
            x = jax.ShapeDtypeStruct((1, side, side, self.channels), jnp.float32)
            sigma = 0.0 if self.takes_noise_level else None
            self._per_pixel = bytes_.bytes_per_pixel(self._forward, side, side, state, x, sigma)
        return self._per_pixel

    def _parts(
        self,
        picture: np.ndarray,
        tile: tuple[int, int],
        convert: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Parts spread over the picture, as many pixels as a tile: (16, h, w, channels)."""
        sides = [
            min(max(side // _PARTS // self.stride, 1) * self.stride, length)
            for side, length in zip(tile, picture.shape[:2], strict=True)
        ]
        starts = [
            [round(i * (length - side) / (_PARTS - 1)) for i in range(_PARTS)]
            for side, length in zip(sides, picture.shape[:2], strict=True)
        ]
        return np.stack(
            [
                convert(picture[row : row + sides[0], column : column + sides[1]])
                for row in starts[0]
                for column in starts[1]
            ]
        )


def _continued(picture: np.ndarray, stride: int) -> np.ndarray:
    """Mirrored at the right and lower edges to multiples of the stride, as the U-Net does."""
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (0, -picture.shape[axis] % stride)
        if pad[axis][1]:
            alone = picture.shape[axis] == 1
            picture = np.pad(picture, pad, mode="edge" if alone else "reflect")
    return picture


def _ensembled(
    network: Callable[[np.ndarray], np.ndarray], self_ensemble: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of the network's results for the eight flips and rotations, turned back, or it."""

    def over_flips(x: np.ndarray) -> np.ndarray:
        total = np.zeros(x.shape, np.float32)
        for turns in range(4):
            turned = np.rot90(x, turns)
            total += np.rot90(network(turned), -turns)
            total += np.rot90(network(turned[:, ::-1])[:, ::-1], -turns)
        return total / 8

    return over_flips if self_ensemble else network
