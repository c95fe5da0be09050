"""Arrays that people hold pictures in, as float32 in [0, 1], and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sa_flax.errors import NotFiniteError
from sa_flax.limits import LARGEST_LEVEL


def is_integer(dtype: np.dtype) -> bool:
    """Whether pictures of this dtype hold 0 to its largest value: uint8, uint16 (any order)."""
    return dtype.kind == "u" and dtype.itemsize in (1, 2)


def as_batch(x: np.ndarray) -> np.ndarray:
    """(B, H, W, C) of a picture (H, W) or (H, W, C), or of a batch.

    Raises:
      ValueError: for another rank, an empty array, and more than 4 channels.
    """
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


def as_given(clean: np.ndarray, noisy: Any) -> Any:
    """A result as a JAX array where the picture was one, on the devices that it was on."""
    if not isinstance(noisy, jax.Array):
        return clean
    return jax.device_put(clean, noisy.sharding if noisy.committed else None)


def check_values(x: np.ndarray) -> None:
    """Looks whether an array holds pictures as they are meant here.

    Float pictures are in [0, 1]. Noise may take them beyond on both sides, to -15 and 16; what
    leaves the range to one side only by more than 1, has a mean outside of it, or holds whole
    numbers above 1, is on another scale.

    Raises:
      TypeError: for a dtype other than uint8, uint16 and floats.
      ValueError: for floats that are not finite, and for another scale.
    """
    if is_integer(x.dtype):
        return
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"pictures must be uint8, uint16 or float in [0, 1]; got {x.dtype}.")
    low, high = float(np.min(x)), float(np.max(x))  # NaN stays NaN in both
    if not np.isfinite([low, high]).all():
        raise ValueError("the picture holds values that are not finite (NaN or infinity).")
    above, below = max(high - 1, 0.0), max(-low, 0.0)
    # Noise goes as far to one side as to the other, give or take the picture's own range.
    one_sided = max(above, below) > 1 and min(above, below) < max(above, below) / 2 - 1
    outside = _mean_outside(x) if max(above, below) > 0 else 0.0
    wrong = max(above, below) > 15 or one_sided or outside != 0
    if wrong or (high >= 2 and low >= 0 and _is_whole(x)):
        if above >= below and outside >= 0:
            advice = "Divide by 255 (or by 65535), or pass it as uint8 or uint16."
        else:
            advice = "For a picture in [-1, 1] take (x + 1) / 2; else move and scale it to [0, 1]."
        raise ValueError(
            f"float pictures must be in [0, 1], but for noise; this one goes from {low:g} to "
            f"{high:g}. {advice}"
        )


def _mean_outside(x: np.ndarray) -> float:
    """How far the mean is below 0 (negative) or above 1, where noise doesn't bring it there."""
    if x.size < 64:
        return 0.0
    mean, spread = float(np.mean(x, dtype=np.float64)), float(np.std(x, dtype=np.float64))
    outside = mean - min(max(mean, 0.0), 1.0)
    # Of noise that neighbours share the mean is known less well than of white noise.
    return outside if abs(outside) > 0.05 + 12 * spread / x.size**0.5 else 0.0


def _is_whole(x: np.ndarray) -> bool:
    return all(bool(np.all(np.trunc(rows) == rows)) for rows in x)


def check_told(sigma: Any, takes_noise_level: bool) -> None:
    """Raises ValueError for a noise level too many or missing."""
    if (sigma is not None) != takes_noise_level:
        raise ValueError(
            "this network needs the noise level: denoiser(noisy, sigma), sigma in [0, 1] units."
            if takes_noise_level
            else "this network is blind: it takes no noise level."
        )


def check_level(sigma: Any) -> None:
    """Raises ValueError unless `sigma` is None or one number, not on the 0-255 scale."""
    if sigma is not None and (np.ndim(sigma) > 0 or not 0 <= sigma <= LARGEST_LEVEL / 255):
        raise ValueError(
            "sigma must be one number for all of a batch, on the scale of pictures in [0, 1] "
            f"(25 of 255 is 0.098); got {sigma!r}."
        )


def to_unit(x: np.ndarray) -> np.ndarray:
    """float32, in [0, 1] for integers."""
    if is_integer(x.dtype):
        return x.astype(np.float32) / np.float32(np.iinfo(x.dtype).max)
    return x.astype(np.float32)


def from_unit(x: np.ndarray, dtype: Any) -> np.ndarray:
    """The values clipped to [0, 1] and, for integers, rounded to their scale.

    Raises:
      NotFiniteError: where a value is not finite.
    """
    dtype = np.dtype(dtype)
    if not np.isfinite(x).all():  # integers would hide it
        raise NotFiniteError(
            "the network's result is not finite: its weights are damaged, or its training diverged."
        )
    if is_integer(dtype):
        return np.round(np.clip(x, 0, 1) * np.float32(np.iinfo(dtype).max)).astype(dtype)
    return np.clip(x, 0, 1).astype(dtype)
