"""Noise models: `(key, clean, level) -> noisy`.

Pictures are float arrays of shape (..., H, W, C) with values in [0, 1]; levels are in the same
units, so sigma 25 on the 0-255 scale of papers is 25 / 255 here. A level is a number, or one number
for each picture of a batch (B, H, W, C). Nothing is clipped unless `clip=True`: real sensors clip,
the published benchmarks do not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Level = float | Float[Array, ""] | Float[Array, " B"]


def _per_picture(level: Level, clean: jax.Array, name: str) -> jax.Array:
    """`level` shaped to multiply `clean`: one value for all pictures, or one for each."""
    level = jnp.asarray(level, clean.dtype)
    if level.ndim == 0:
        return level
    if level.ndim == 1 and clean.ndim == 4 and level.shape[0] == clean.shape[0]:
        return level[:, None, None, None]
    raise ValueError(
        f"{name} must be one number, or one for each of a (B, H, W, C) batch; got shape "
        f"{level.shape} for pictures of shape {clean.shape}."
    )


def gaussian_noise(
    key: jax.Array, clean: Float[Array, "... H W C"], sigma: Level, *, clip: bool = False
) -> Float[Array, "... H W C"]:
    """Additive white Gaussian noise: `clean + sigma * n`, n ~ N(0, 1) at every value.

    Args:
      key: a JAX random key.
      clean: pictures in [0, 1].
      sigma: standard deviation in [0, 1] units; a number, or one for each picture.
      clip: clip the result to [0, 1].
    """
    noisy = clean + _per_picture(sigma, clean, "sigma") * jax.random.normal(
        key, clean.shape, clean.dtype
    )
    return jnp.clip(noisy, 0, 1) if clip else noisy


def uniform_levels(
    key: jax.Array, batch: int, low: float, high: float, dtype=jnp.float32
) -> Float[Array, " B"]:
    """One noise level for each picture, uniform in [low, high): what trains a *blind* denoiser."""
    return jax.random.uniform(key, (batch,), dtype, low, high)


def poisson_gaussian_noise(
    key: jax.Array,
    clean: Float[Array, "... H W C"],
    gain: Level,
    *,
    read_noise: Level = 0.0,
    clip: bool = False,
) -> Float[Array, "... H W C"]:
    """Sensor noise: `gain * Poisson(clean / gain) + read_noise * n`, n ~ N(0, 1).

    The variance at a value v is `gain * v + read_noise**2`: it grows with the light. Foi et al.,
    "Practical Poissonian-Gaussian noise modeling and fitting", IEEE TIP 17(10), 2008.

    Args:
      key: a JAX random key.
      clean: pictures in [0, 1]; negative values count as no light.
      gain: [0, 1] units per photon, > 0; a number, or one for each picture.
      read_noise: standard deviation of the read-out in [0, 1] units, likewise.
      clip: clip the result to [0, 1].
    """
    shot_key, read_key = jax.random.split(key)
    gain = _per_picture(gain, clean, "gain")
    photons = jax.random.poisson(shot_key, jnp.maximum(clean, 0) / gain).astype(clean.dtype)
    read = _per_picture(read_noise, clean, "read_noise")
    noisy = gain * photons + read * jax.random.normal(read_key, clean.shape, clean.dtype)
    return jnp.clip(noisy, 0, 1) if clip else noisy
