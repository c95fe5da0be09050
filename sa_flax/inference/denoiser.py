"""A trained network, ready to use on pictures of any kind."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.errors import InputError
from sa_flax.functional.statistics import Window
from sa_flax.inference import specialists
from sa_flax.inference.arrays import (
    as_batch,
    as_given,
    check_level,
    check_told,
    check_values,
    from_unit,
    to_unit,
)
from sa_flax.inference.box import channel_means
from sa_flax.inference.finish import REACH, Finish
from sa_flax.inference.rows import Rows
from sa_flax.inference.whole_or_tiles import Engine, Pair, Report, ignore
from sa_flax.models import saved_use
from sa_flax.models.saved import from_pretrained
from sa_flax.pictures import is_gray, split_alpha


class Denoiser:
    """`denoiser(noisy) -> clean`, for arrays of every usual kind and size.

    Takes NumPy or JAX arrays, (H, W), (H, W, C) or (B, H, W, C), uint8, uint16 (of any byte order)
    or float in [0, 1], computed in float32, and returns the same kind (JAX's on the same device),
    clipped to its range and, for integers, rounded. A last axis of 2 or 4 is gray or colour with
    alpha, which passes through as it is. A gray network denoises the channels of a colour picture
    one by one; a colour network denoises a gray picture as three equal channels, and their mean is
    returned. To a network that has learned gray pictures, three equal channels are such a picture.

    Any size goes through tiles of a few sizes, to bound memory and what is compiled. What comes out
    is what the network makes of the whole picture:

    - Without attention, exactly (to rounding): tiles overlap by the network's receptive radius, and
      a picture smaller than its tile is computed as if it ended where it does.
    - Attention that pools (shuffle, squeeze_excite, ...) takes its statistics from the whole
      picture where that fits into `memory` at once, exactly. Of a larger one they are taken in a
      first pass over sixteen parts spread over it, as much as one tile, and hold for all tiles:
      estimates of the whole's, but the same everywhere.
    - With a `window` tiles overlap by it: exactly, or, of many layers with wide ones, nearly.
    - Attention between all positions (non_local, self_attention, danet) sees the whole picture
      where that fits into `memory` at once, else the tile alone, and tiles are faded into each
      other.

    Networks of other makers go through whole, unless they have the attributes `receptive_radius`
    and `stride` and are built from `sa_flax.modules`.

    A saved network whose config has "keep_detail" (of the shipped ones `photo`, 1) gets that much
    of the texture back that it took for noise, in every result of `denoiser(noisy)`; the attribute
    `keep_detail` says how much, and 0 leaves what the network makes. One whose config has "declip"
    (again `photo`) has black and white mended where clipping moved their means (see
    `sa_flax.inference.clipping`); the attribute `declip` says whether. One whose config has
    "specialists" (`photo`: `color` and `gray`) hands pictures whose noise turns out to be white to
    those, which know it better (see `sa_flax.inference.specialists`); the attribute `specialists`
    has their names by the number of channels, and with {} it keeps all pictures to itself. A
    "window" in a config (`gray`) is the `window`, unless another is given. The attribute `dtype`
    is what `from_pretrained` was told to compute in, or None.

    For `jax.jit`, `jax.vmap` and gradients, and without clipping, see `apply`. It can be pickled.

    Args:
      model: a network that maps noisy (B, H, W, C) in [0, 1] to clean, with the attribute
        `channels`. It is used in evaluation mode, and its parameters are shared: what is trained on
        changes here too, unless it is split over devices. A snapshot is `nnx.clone(model)`.
      window: (height, width) in pixels that attention's statistics are taken over, around each
        pixel; None for the whole picture. See `AttentionUNet.with_window`.
      devices: split the rows of every picture over this many of this process's devices, for
        pictures too large for one. Rows at the edges are exchanged and attention's sums taken over
        all devices, so the result is the same. Where the height is no multiple of `devices` (times
        2^(levels - 1) for a U-Net) the picture is continued by its mirror image first, which counts
        in attention's statistics. Nothing is tiled then.
      memory: what the process should stay within, pictures included: bytes, or a text like "2GB".
        By default half of what is free on top of what it holds. Tiles are chosen by it; with less
        than the smallest tiles need (some 600 MB), those are taken.

    Raises:
      InputError: where there are not so many devices, and for a `memory` that is none.
      TypeError: for a network without the attribute `channels`, and for a window where the network
        can't take one.
    """

    def __init__(
        self,
        model: nnx.Module,
        *,
        window: Window = None,
        devices: int = 1,
        memory: str | int | None = None,
    ):
        channels = getattr(model, "channels", None)
        if not isinstance(channels, int):
            raise TypeError(
                f"{type(model).__name__} is not a denoiser: it has no number of `channels`."
            )
        if window is not None:
            if not hasattr(model, "with_window"):
                raise TypeError(f"{type(model).__name__} has no statistics to take over a window.")
            model = model.with_window(window)
        model = nnx.clone(model, variables=False)  # the caller's may be in training mode
        model.eval()
        self.channels = channels
        self.takes_noise_level: bool = getattr(model, "noise_level", False)
        self.suits_gray = channels == 1
        self.keep_detail, self.declip = 0.0, False
        self.specialists: dict[int, str] = {}
        self._loaded: dict[str, Denoiser] = {}
        self._options: dict[str, Any] = {"window": window, "devices": devices, "memory": memory}
        self.dtype: str | None = None
        self._graphdef, state = nnx.split(model)
        self._rows: Rows | None = None
        if devices != 1:
            self._rows = Rows(devices, getattr(model, "stride", 1))
        self._engine = Engine(model, self._network, memory=memory, rows=self._rows)
        self._state = state if self._rows is None else self._rows.everywhere(state)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        dtype: Any = None,
        window: Window = None,
        devices: int = 1,
        memory: str | int | None = None,
    ) -> "Denoiser":
        """A saved network: a shipped name (`sa_flax.list_pretrained()`), a directory, also of a run
        of train.py (RUN@best for its best), or OWNER/NAME on the hub. `dtype`: of the computation.

        Raises:
          InputError: as `sa_flax.from_pretrained`, and for a network that is no denoiser.
        """
        model, config = from_pretrained(name, revision=revision, dtype=dtype)
        origin = str(name)
        its = window or saved_use.window_of(config, origin)
        try:
            denoiser = cls(model, window=its, devices=devices, memory=memory)
        except TypeError as error:
            raise InputError(f"{name}: {error}") from error
        denoiser._options["window"] = window  # what specialists are given, too
        denoiser.dtype = None if dtype is None else jnp.dtype(dtype).name
        denoiser.suits_gray = saved_use.suits_gray(config)
        denoiser.keep_detail = saved_use.keep_detail_of(config, origin)
        denoiser.declip = saved_use.declips(config, origin)
        denoiser.specialists = saved_use.specialists_of(config, origin)
        return denoiser

    def __reduce__(self) -> tuple[Any, ...]:
        state = jax.tree.map(np.asarray, self._state)
        kept = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return _restored, (self._graphdef, state, self._options, kept)

    def __copy__(self) -> "Denoiser":  # not by __reduce__: what is compiled is shared
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def with_variables(self, *states: nnx.State[Any, Any]) -> "Denoiser":
        """It with other parameters, what is compiled is shared; and nothing is handed over."""
        other = copy.copy(self)
        other.specialists = {}
        state = nnx.merge_state(*states)
        other._state = state if self._rows is None else self._rows.everywhere(state)
        return other

    @property
    def params(self) -> nnx.State[Any, Any]:
        """All that the network has learned, as a pytree: what `apply` takes."""
        return self._state

    @property
    def model(self) -> nnx.Module:
        """The network, in evaluation mode: `model(noisy) -> clean`, not clipped."""
        return nnx.merge(self._graphdef, self._state, copy=True)

    def apply(
        self,
        params: nnx.State[Any, Any],
        x: Float[Array, "*B H W C"],
        sigma: Float[Array, " B"] | float | None = None,
    ) -> Float[Array, "*B H W C"]:
        """The network as a pure function: for jit, vmap, grad, jvp, scan and what else JAX has.

        Nothing is clipped, rounded, converted or tiled.

        Args:
          params: `denoiser.params`, or others of that structure.
          x: pictures in [0, 1], float, (H, W, C) or (B, H, W, C), with the network's channels.
          sigma: noise level in [0, 1] units, for networks that were trained to be told it.

        Raises:
          ValueError: for another rank or number of channels, and for a noise level too many or
            missing.
        """
        check_told(sigma, self.takes_noise_level)
        if x.ndim == 3:
            return self._network(params, x[None], sigma)[0]
        return self._network(params, x, sigma)

    def __call__(
        self,
        noisy: Any,
        sigma: float | None = None,
        *,
        strength: float = 1.0,
        keep_detail: float | None = None,
        declip: bool | None = None,
        self_ensemble: bool = False,
        report: Report = ignore,
        handed_to: Callable[[str], None] | None = None,
    ) -> Any:
        """Denoises a picture or a batch of pictures; see the class.

        Args:
          noisy: see the class.
          sigma: noise level in [0, 1] units, for networks that were trained to be told it.
          strength: how much of what the network takes away is taken away: 1 all, 0 nothing.
          keep_detail: how much texture to put back, 0 to 1: where more was taken away than usual at
            that brightness in this picture, what is too much for noise (see
            `sa_flax.inference.finish.texture`). By default `self.keep_detail`.
          declip: whether to mend black and white where noise was clipped; by default `self.declip`.
          self_ensemble: mean over the eight flips and rotations of the picture, at eight times the
            cost.
          report: called with (tiles done, tiles in all) after each tile. What it raises ends the
            work, as a signal between tiles does. A specialist counts anew.
          handed_to: called with the name of the specialist that takes a picture over.

        Raises:
          TypeError: for a dtype other than uint8, uint16 and floats, and where JAX traces it.
          ValueError: for another rank, number of channels or size, for floats that are not finite
            or on another scale, for a noise level too many, missing or on another scale, and for a
            strength or keep_detail outside of [0, 1].
        """
        if isinstance(noisy, jax.core.Tracer):
            raise TypeError(
                "denoiser(noisy) takes arrays with values, and jax.jit, vmap or grad trace it: use "
                "the pure function, e.g. jax.jit(denoiser.apply)(denoiser.params, noisy), with "
                "float pictures in [0, 1]."
            )
        check_told(sigma, self.takes_noise_level)
        check_level(sigma)
        finish = Finish(
            strength,
            self.keep_detail if keep_detail is None else keep_detail,
            self.declip if declip is None else declip,
        )
        pictures = np.asarray(noisy)
        batch = as_batch(pictures)
        colour, alpha = split_alpha(batch)
        check_values(colour)
        clean = np.empty_like(batch)
        clean[..., colour.shape[-1] :] = alpha
        groups, gray = self._groups(colour.shape[-1]), [slice(0, 1)]
        three = self.suits_gray and colour.shape[-1] == 3
        grays = [index for index, x in enumerate(colour) if three and is_gray(x)]
        work = [(i, group) for i in range(len(batch)) for group in (gray if i in grays else groups)]
        for turn, (index, group) in enumerate(work):

            def of_all(done: int, total: int, turn: int = turn) -> None:
                report(turn * total + done, len(work) * total)

            noisy_part, clean_part = colour[index][..., group], clean[index][..., group]
            one: dict[str, Any] = {"self_ensemble": self_ensemble, "report": of_all}
            if self._one(noisy_part, clean_part, sigma, finish=finish, **one):
                continue
            specialist = self._specialist(noisy_part.shape[-1])
            detail = specialist.keep_detail if keep_detail is None else keep_detail
            theirs = dataclasses.replace(finish, keep_detail=detail)
            specialist._one(noisy_part, clean_part, None, finish=theirs, **one)
            if handed_to is not None:
                handed_to(self.specialists[noisy_part.shape[-1]])
        for index in grays:
            clean[index][..., 1 : colour.shape[-1]] = clean[index][..., :1]
        return as_given(clean.reshape(pictures.shape), noisy)

    def compile(self, height: int, width: int) -> jax.stages.Compiled:
        """A whole picture of this size at once, compiled but not run: to ask what it will take.

        `denoiser.compile(4000, 6000).memory_analysis()` says it in bytes, for each device. Pictures
        go through tiles instead, unless they are split over devices.
        """
        sharding = None if self._rows is None else self._rows.sharding
        height += 0 if self._rows is None else -height % self._rows.multiple
        shape = (1, height, width, self.channels)
        picture = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        sigma = 0.0 if self.takes_noise_level else None
        return self._engine.split.lower(self._state, picture, sigma).compile()

    def method(
        self, noisy: np.ndarray, sigma: float | None, *, self_ensemble: bool = False
    ) -> np.ndarray:
        """The form that `evaluate` compares: a blind network is not told the noise level."""
        told = sigma if self.takes_noise_level else None
        return self(noisy, told, self_ensemble=self_ensemble)

    def _network(self, state: nnx.State[Any, Any], noisy: jax.Array, sigma: Any) -> jax.Array:
        network = nnx.merge(self._graphdef, state, copy=True)
        return network(noisy) if sigma is None else network(noisy, sigma)

    def _groups(self, channels: int) -> list[slice]:
        """The channels of a picture that go through the network together."""
        if channels in (1, self.channels):
            return [slice(0, channels)]
        if self.channels == 1:
            return [slice(c, c + 1) for c in range(channels)]
        raise InputError(
            f"a network for {self.channels} channels can't denoise a picture with {channels}."
        )

    def _one(
        self,
        noisy: np.ndarray,
        clean: np.ndarray,
        sigma: float | None,
        *,
        finish: Finish,
        self_ensemble: bool,
        report: Report,
    ) -> bool:
        """(H, W, C) of any kind through the network, into `clean`. C is 1 or the network's.

        False where it is for the specialist instead; nothing is written then.
        """
        channels, ours = noisy.shape[-1], True

        def convert(part: np.ndarray) -> np.ndarray:
            unit = to_unit(part)
            return np.repeat(unit, self.channels, axis=-1) if channels != self.channels else unit

        def as_picture(x: np.ndarray, y: np.ndarray) -> Pair:
            if channels != self.channels:
                return x[..., :1], channel_means(y)[..., None]
            return x, y

        def look(pairs: list[Pair]) -> bool:
            nonlocal finish, ours
            seen = [as_picture(x, y) for x, y in pairs]
            ours = channels not in self.specialists or not self._hands_over(seen)
            if ours:
                finish = finish.after(seen)
            return ours

        def back(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return finish(*as_picture(x, y))

        def write(first: int, rows: np.ndarray) -> None:
            rows = rows[: len(clean) - first, : clean.shape[1]]
            clean[first : first + len(rows)] = from_unit(rows, clean.dtype)

        looks = finish.looks_around or channels in self.specialists
        self._engine.run(
            self._state, noisy, sigma, convert=convert, back=back, write=write,
            look=look if looks else None, reach=REACH if finish.looks_around else 0,
            self_ensemble=self_ensemble, report=report,
        )  # fmt: skip
        return ours

    def _specialist(self, channels: int) -> "Denoiser":
        """The network for white noise on pictures of so many channels; read when first needed."""
        name = self.specialists[channels]
        if name not in self._loaded:
            self._loaded[name] = Denoiser.from_pretrained(name, dtype=self.dtype, **self._options)
        return self._loaded[name]

    def _hands_over(self, pairs: list[Pair]) -> bool:
        """Whether the specialist knows better what this network removed: each (noisy, clean)."""
        parts = specialists.parts_of(pairs)
        if not parts or not specialists.looks_white(pairs):
            return False
        other = self._specialist(pairs[0][0].shape[-1])
        return specialists.leaves_no_noise(
            parts, lambda part: other._engine.at_once(other._state, part, None)
        )


def _restored(
    graphdef: Any, state: nnx.State[Any, Any], options: dict[str, Any], kept: dict[str, Any]
) -> Denoiser:
    """A pickled Denoiser: its devices are those of the process that reads it."""
    denoiser = Denoiser(nnx.merge(graphdef, state), **options)
    vars(denoiser).update(kept)
    return denoiser
