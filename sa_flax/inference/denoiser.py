"""A trained network, ready to use on pictures of any kind."""

import copy
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sa_flax.errors import InputError
from sa_flax.functional.statistics import Window
from sa_flax.inference.pretrained import from_pretrained
from sa_flax.inference.run_directory import read_config, restore_ema
from sa_flax.models.registry import network_of


class Denoiser:
    """`denoiser(noisy) -> clean`, for arrays of every usual kind.

    Takes NumPy or JAX arrays, (H, W), (H, W, C) or (B, H, W, C), uint8, uint16 or float in [0, 1],
    and returns the same kind. A last axis of 2 or 4 is gray or colour with alpha; alpha passes
    through as it is. A gray network denoises the channels of a colour picture one by one; a colour
    network denoises a gray picture as three equal channels, and their mean is returned.

    Args:
      model: a network that maps noisy (B, H, W, C) in [0, 1] to clean, with the attribute
        `channels`. It is used in evaluation mode.
      window: (height, width) in pixels that attention's statistics are taken over, around each
        pixel; None for the whole picture. For pictures much larger than the training crops; one
        and a half times the crop is a good start. See `AttentionUNet.with_window`.
      devices: split the rows of every picture over this many of this process's devices, for
        pictures too large for one. Rows at the edges are exchanged and attention's sums taken over
        all devices, so the result is the same. Where the height is no multiple of `devices` (times
        2^(levels - 1) for a U-Net) the picture is continued by its mirror image first, which counts
        in attention's statistics.

    Raises:
      InputError: where there are not so many devices.
      TypeError: for a network without the attribute `channels`, and for a window where the network
        can't take one.
    """

    def __init__(self, model: nnx.Module, *, window: Window = None, devices: int = 1):
        channels = getattr(model, "channels", None)
        if not isinstance(channels, int):
            raise TypeError(
                f"{type(model).__name__} is not a denoiser: it has no number of `channels`."
            )
        if window is not None:
            if not hasattr(model, "with_window"):
                raise TypeError(f"{type(model).__name__} has no statistics to take over a window.")
            model = model.with_window(window)
        model.eval()
        self.channels = channels
        self.takes_noise_level: bool = getattr(model, "noise_level", False)
        graphdef, state = nnx.split(model)
        self._rows: NamedSharding | None = None
        if devices != 1:
            self._rows = NamedSharding(_mesh(devices), PartitionSpec(None, "height"))
            self._row_multiple = devices * getattr(model, "stride", 1)
        self._state = self._everywhere(state)

        def forward(state: nnx.State, noisy: jax.Array, sigma: Any) -> jax.Array:
            network = nnx.merge(graphdef, state)
            return network(noisy) if sigma is None else network(noisy, sigma)

        self._forward = jax.jit(forward, out_shardings=self._rows)

    @classmethod
    def from_checkpoint(
        cls, run: str | Path, *, window: Window = None, devices: int = 1
    ) -> "Denoiser":
        """The network of a training run: the moving average in its newest valid checkpoint.

        Raises:
          InputError: where `run` is not the directory of a run, or has no readable checkpoint.
        """
        run = Path(run)
        config = read_config(run)
        try:
            abstract = nnx.eval_shape(lambda: network_of(config))
        except InputError as error:
            raise InputError(f"{run}: {error}") from error
        graphdef, *states = nnx.split(abstract, nnx.Param, ...)
        return cls(nnx.merge(graphdef, *restore_ema(run, *states)), window=window, devices=devices)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        window: Window = None,
        devices: int = 1,
    ) -> "Denoiser":
        """A released network (`sa_flax.list_pretrained()`), or one in a directory or on the hub.

        Raises:
          InputError: as `sa_flax.from_pretrained`, and for a network that is no denoiser.
        """
        model, _ = from_pretrained(name, revision=revision)
        try:
            return cls(model, window=window, devices=devices)
        except TypeError as error:
            raise InputError(f"{name}: {error}") from error

    @classmethod
    def load(cls, name: str | Path, *, window: Window = None, devices: int = 1) -> "Denoiser":
        """`from_checkpoint` for the directory of a training run, else `from_pretrained`."""
        directory = Path(name)
        exists = os.path.isdir(directory)
        is_run = exists and not os.path.isfile(directory / "model.safetensors")
        # Runs are kept in runs/: of one that is not there yet, don't say the hub hasn't got it.
        if is_run or (directory.parts[:1] == ("runs",) and not exists):
            return cls.from_checkpoint(name, window=window, devices=devices)
        return cls.from_pretrained(name, window=window, devices=devices)

    def with_variables(self, *states: nnx.State) -> "Denoiser":
        """The same network with other parameters; what is compiled is shared."""
        other = copy.copy(self)
        other._state = self._everywhere(nnx.merge_state(*states))
        return other

    def __call__(self, noisy: Any, sigma: float | None = None) -> Any:
        """Denoises a picture or a batch of pictures.

        Args:
          noisy: see the class.
          sigma: noise level in [0, 1] units, for networks that were trained to be told it.

        Raises:
          TypeError: for a dtype other than uint8, uint16 and floats.
          ValueError: for another rank, number of channels or size, for floats that are not finite
            or far outside [0, 1], and for a noise level too many or missing.
        """
        if (sigma is not None) != self.takes_noise_level:
            raise ValueError(
                "this network needs the noise level: denoiser(noisy, sigma), sigma in [0, 1] units."
                if self.takes_noise_level
                else "this network is blind: it takes no noise level."
            )
        pictures = np.asarray(noisy)
        batch = _as_batch(pictures)
        colour, alpha = _split_alpha(batch)
        denoised = self._denoise_channels(_to_unit(colour), sigma)
        result = _from_unit(denoised, pictures.dtype)
        result = np.concatenate([result, alpha], axis=-1).reshape(pictures.shape)
        return jnp.asarray(result) if isinstance(noisy, jax.Array) else result

    def compile(self, height: int, width: int) -> jax.stages.Compiled:
        """What runs for a picture of this size, compiled but not run: to ask what it will take.

        `denoiser.compile(4000, 6000).memory_analysis()` says it in bytes, for each device.
        """
        if self._rows is not None:
            height += -height % self._row_multiple
        shape = (1, height, width, self.channels)
        picture = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=self._rows)
        sigma = 0.0 if self.takes_noise_level else None
        return self._forward.lower(self._state, picture, sigma).compile()

    def method(self, noisy: np.ndarray, sigma: float) -> np.ndarray:
        """The form that `evaluate` compares: a blind network is not told the noise level."""
        return self(noisy, sigma if self.takes_noise_level else None)

    def _everywhere(self, state: nnx.State) -> nnx.State:
        if self._rows is None:
            return state
        return jax.device_put(state, NamedSharding(self._rows.mesh, PartitionSpec()))

    def _run(self, x: np.ndarray, sigma: float | None) -> np.ndarray:
        """(B, H, W, channels) through the network, on one device or by rows on several."""
        if self._rows is None:
            return np.asarray(self._forward(self._state, x, sigma))
        height = x.shape[1]
        missing = -height % self._row_multiple
        if missing:
            x = np.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)), mode="symmetric")
        return np.asarray(self._forward(self._state, jax.device_put(x, self._rows), sigma))[
            :, :height
        ]

    def _denoise_channels(self, x: np.ndarray, sigma: float | None) -> np.ndarray:
        """(B, H, W, C) float32 through the network, whatever its number of channels."""
        batch, height, width, channels = x.shape
        if channels == self.channels:
            return self._run(x, sigma)
        if self.channels == 1:
            planes = np.moveaxis(x, -1, 1).reshape(-1, height, width, 1)
            y = self._run(planes, sigma)
            return np.moveaxis(y.reshape(batch, channels, height, width), 1, -1)
        if channels == 1:
            repeated = np.repeat(x, self.channels, axis=-1)
            y = self._run(repeated, sigma)
            return y.mean(axis=-1, keepdims=True)
        raise InputError(
            f"a network for {self.channels} channels can't denoise a picture with {channels}."
        )


def _mesh(devices: int) -> Mesh:
    available = jax.local_devices()
    if not 1 <= devices <= len(available):
        raise InputError(
            f"can't split pictures over {devices} devices: this process has {len(available)} "
            f"({available[0].device_kind})."
        )
    return jax.make_mesh(
        (devices,), ("height",), axis_types=(AxisType.Auto,), devices=available[:devices]
    )


def _as_batch(x: np.ndarray) -> np.ndarray:
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise ValueError(f"a picture must be (H, W), (H, W, C) or (B, H, W, C); got {x.shape}.")
    if x.ndim == 2:
        return x[None, :, :, None]
    batch = x if x.ndim == 4 else x[None]
    if batch.shape[-1] > 4:
        raise ValueError(
            f"the last axis holds the channels, 1 to 4 of them; got a shape of {x.shape}. Move the "
            "channels to the end."
        )
    return batch


def _split_alpha(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    colours = batch.shape[-1] - (batch.shape[-1] in (2, 4))
    return batch[..., :colours], batch[..., colours:]


def _to_unit(x: np.ndarray) -> np.ndarray:
    if x.dtype in (np.uint8, np.uint16):
        return x.astype(np.float32) / np.iinfo(x.dtype).max
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"pictures must be uint8, uint16 or float in [0, 1]; got {x.dtype}.")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError("the picture holds values that are not finite (NaN or infinity).")
    if np.abs(x).max() > 16:
        raise ValueError(
            f"float pictures must be in [0, 1]; this one reaches {np.abs(x).max():g}. Divide by "
            "255, or pass it as uint8."
        )
    return x


def _from_unit(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype in (np.uint8, np.uint16):
        if not np.isfinite(x).all():  # integers would hide it
            raise InputError(
                "the network's result is not finite: its weights are damaged, or its training "
                "diverged."
            )
        return np.round(np.clip(x, 0, 1) * np.iinfo(dtype).max).astype(dtype)
    return np.clip(x, 0, 1).astype(dtype)
