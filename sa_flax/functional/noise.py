"""Noise models: `(key, clean, level) -> noisy`.

Pictures are float arrays of shape (..., H, W, C) with values in [0, 1]; levels are in the same
units, so sigma 25 on the 0-255 scale of papers is 25 / 255 here. A level is a number, or one number
for each picture of a batch (B, H, W, C). Nothing is clipped unless `clip=True`: real sensors clip,
the published benchmarks do not.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_floating
from sa_flax.functional.statistics import widened

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
    clean = check_floating("gaussian_noise", clean, "the picture")
    noisy = clean + _per_picture(sigma, clean, "sigma") * jax.random.normal(
        key, clean.shape, clean.dtype
    )
    return jnp.clip(noisy, 0, 1) if clip else noisy


def uniform_levels(
    key: jax.Array,
    batch: int,
    low: float,
    high: float,
    dtype: jax.typing.DTypeLike = jnp.float32,
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
      clean: pictures in [0, 1]; negative values count as no light. The derivative with respect to
        it is 0: photons are counted.
      gain: [0, 1] units per photon, > 0; a number, or one for each picture.
      read_noise: standard deviation of the read-out in [0, 1] units, likewise.
      clip: clip the result to [0, 1].
    """
    clean = check_floating("poisson_gaussian_noise", clean, "the picture")
    shot_key, read_key = jax.random.split(key)
    light = widened(clean)  # float16 counts no more than 65,504 photons
    gain = _per_picture(gain, light, "gain")
    photons = jax.random.poisson(shot_key, jnp.maximum(light, 0) / gain).astype(light.dtype)
    read = _per_picture(read_noise, light, "read_noise")
    noisy = gain * photons + read * jax.random.normal(read_key, clean.shape, light.dtype)
    return (jnp.clip(noisy, 0, 1) if clip else noisy).astype(clean.dtype)


def blur(x: Float[Array, "B H W C"], sigma: Level, *, radius: int = 4) -> Float[Array, "B H W C"]:
    """Gaussian blur with one width for each picture, continued periodically at the edges.

    A kernel of 2 * radius + 1 values, which sum to one, along rows and columns. The period suits
    noise, whose edges then have the statistics of its middle.

    Args:
      x: pictures, or noise.
      sigma: standard deviation of the blur in pixels, a number or one for each picture; 0 leaves
        the picture as it is. The kernel holds it up to about radius / 2.
      radius: of the kernel, in pixels.
    """
    weights = _blur_weights(sigma, x, radius)
    for axis in (1, 2):
        blurred = weights[0] * x
        for shift in range(1, radius + 1):
            blurred += weights[shift] * (jnp.roll(x, shift, axis) + jnp.roll(x, -shift, axis))
        x = blurred
    return x


def _blur_weights(sigma: Level, x: jax.Array, radius: int) -> list[jax.Array]:
    """The kernel's values from its centre outwards, each shaped to multiply `x`."""
    sigma = jnp.maximum(_per_picture(sigma, x, "sigma"), 1e-3)
    weights = [jnp.exp(-0.5 * jnp.square(distance / sigma)) for distance in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]


def correlated_noise(
    key: jax.Array,
    clean: Float[Array, "B H W C"],
    sigma: Level,
    *,
    mixing: Float[Array, "B C C"] | None = None,
    luma_blur: Level = 0.0,
    chroma_blur: Level = 0.0,
    clip: bool = False,
) -> Float[Array, "B H W C"]:
    """`clean + sigma * n`, where n is correlated between channels and between pixels.

    White noise n is mixed, `n @ mixing.T`, and its mean over the channels and what differs from
    the mean are blurred, each by its own width, then scaled back to the standard deviation that
    they had: that of all such noise, from which single pictures deviate by chance.

    Args:
      key: a JAX random key.
      clean: pictures in [0, 1].
      sigma: standard deviation in [0, 1] units; a number, or one for each picture.
      mixing: rows of unit length, so that every channel keeps its standard deviation. All rows
        equal: the channels share their noise. By default they are independent.
      luma_blur: width of the blur of the mean, in pixels.
      chroma_blur: width of the blur of the differences from it, in pixels.
      clip: clip the result to [0, 1].
    """
    clean = check_floating("correlated_noise", clean, "the picture")
    noise = jax.random.normal(key, clean.shape, clean.dtype)
    if mixing is not None:
        noise = jnp.einsum("bhwc,bdc->bhwd", noise, mixing.astype(noise.dtype))
    luma = jnp.mean(noise, axis=-1, keepdims=True)
    chroma = noise - luma
    noise = _blur_keeping_power(luma, luma_blur) + _blur_keeping_power(chroma, chroma_blur)
    noisy = clean + _per_picture(sigma, clean, "sigma") * noise
    return jnp.clip(noisy, 0, 1) if clip else noisy


def _blur_keeping_power(noise: Float[Array, "B H W C"], sigma: Level) -> Float[Array, "B H W C"]:
    weights = _blur_weights(sigma, noise, 4)

    def power(size: int) -> jax.Array:
        """What is left of the variance along an axis, which is periodic."""
        around = [jnp.zeros_like(weights[0])] * min(size, 9)
        for shift in range(-4, 5):
            around[shift % len(around)] += weights[abs(shift)]
        return jnp.sum(jnp.square(jnp.stack(around)), axis=0)

    return blur(noise, sigma) / jnp.sqrt(power(noise.shape[1]) * power(noise.shape[2]))


def to_linear(x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Pictures in [0, 1] back to linear light: a camera's contrast curve and gamma, undone.

    The contrast curve is taken for `3 x^2 - 2 x^3` and the gamma for 2.2. `from_linear` is its
    inverse. Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019.
    """
    given = check_floating("to_linear", x, "the picture")
    x = jnp.clip(widened(given), 0, 1)
    # At the ends the arcsine has no slope: 0 and 1 are what they become, and count as constant, and
    # so does what is so near to them that it makes no difference.
    inside = jnp.abs(1 - 2 * x) < 1
    light = (0.5 - jnp.sin(jnp.arcsin(1 - 2 * jnp.where(inside, x, 0.5)) / 3)) ** 2.2
    return jnp.where(inside, light, jax.lax.stop_gradient(jnp.round(x))).astype(given.dtype)


def from_linear(light: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Linear light in [0, 1] (what is outside is clipped) as a camera shows it: see `to_linear`."""
    light = check_floating("from_linear", light, "the light")
    x = jnp.clip(widened(light), 1e-8, 1) ** (1 / 2.2)  # 1e-8 is 0 in float16
    return (3 * x**2 - 2 * x**3).astype(light.dtype)


def camera_noise(
    key: jax.Array,
    clean: Float[Array, "B H W C"],
    shot: Level,
    read: Level,
    *,
    white_balance: Float[Array, "B C"] | None = None,
    saturation: Level = 0.0,
    mosaic: Float[Array, " B"] | None = None,
    by_difference: Level = 0.0,
    contrast: Level = 1.0,
    luma_blur: Level = 0.0,
    chroma_blur: Level = 0.0,
    luma_kept: Level = 0.0,
    chroma_kept: Level = 0.0,
) -> Float[Array, "B H W C"]:
    """Noise that arose in a camera's linear light, as it looks in the finished picture.

    The picture goes back to linear light (`to_linear`, or its gamma alone), its saturation and
    white balance are undone, and each value v gets Gaussian noise of variance `shot * v + read**2`,
    which is what Poisson-Gaussian noise comes to. The noise (not the picture, whose details nobody
    lost) is sampled by a Bayer mosaic and interpolated, which correlates neighbours. Then forward:
    white balance amplifies red and blue, saturation mixes the channels, and the tone curve enlarges
    noise in the shadows and clips it at both ends. A camera's own denoising takes most away at fine
    scales, and more in colour than in brightness, so that blotches are left: `kept * noise +
    (1 - kept) * blur(noise)`. Its sharpening keeps more than there was.

    Args:
      key: a JAX random key.
      clean: pictures in [0, 1]; RGB, or with any other number of channels and then without mosaic.
      shot: variance for each unit of linear light, about 1e-4 (ISO 100) to 1e-2.
      read: standard deviation in the dark, in units of the sensor's range, 1e-3 to 5e-2.
      white_balance: gain of each channel, by default 1.
      saturation: s of the colour matrix `(1 + s) I - s * mean`, 0 to about 1.
      mosaic: 1 for each picture whose noise went through a mosaic, else 0; by default none.
      by_difference: how much of green's noise red and blue get by being interpolated as
        differences from it, which shares fine noise among the channels, 0 to 1.
      contrast: 1 where the camera has a contrast curve, 0 where it has a gamma alone.
      luma_blur: width of the camera's own smoothing in brightness, in pixels, up to about 6.
      chroma_blur: the same in colour.
      luma_kept: how much of the noise that is finer it leaves, 0 to 1, or sharpens, above 1.
      chroma_kept: the same in colour.

    Returns:
      Noisy pictures in [0, 1].

    Brooks et al., CVPR 2019; Foi et al., IEEE TIP 17(10), 2008.
    """
    clean = check_floating("camera_noise", clean, "the picture")
    batch, _, _, channels = clean.shape
    gain = jnp.ones((batch, channels)) if white_balance is None else white_balance
    gain = gain.astype(clean.dtype)[:, None, None, :]
    s = _per_picture(saturation, clean, "saturation")
    curved = _per_picture(contrast, clean, "contrast") > 0
    light = jnp.where(curved, to_linear(clean), jnp.clip(clean, 0, 1) ** 2.2)
    mean = jnp.mean(light, axis=-1, keepdims=True)
    sensor = jnp.maximum(((light - mean) / (1 + s) + mean) / gain, 0)
    variance = _per_picture(shot, clean, "shot") * sensor
    variance += jnp.square(_per_picture(read, clean, "read"))
    noise = jnp.sqrt(variance) * jax.random.normal(key, clean.shape, clean.dtype)
    if mosaic is not None and channels == 3:
        seen = _through_mosaic(noise, by_difference)
        noise = jnp.where(mosaic[:, None, None, None] > 0, seen, noise)
    noise = noise * gain
    noise += s * (noise - jnp.mean(noise, axis=-1, keepdims=True))

    def shown(light: jax.Array) -> jax.Array:
        straight = jnp.clip(widened(light), 1e-8, 1) ** (1 / 2.2)
        return jnp.where(curved, from_linear(light), straight.astype(light.dtype))

    # The tone curve's clipping belongs to the noise; what it does to the clean picture does not.
    noise = shown(light + noise) - shown(light)

    def smoothed(x: jax.Array, width: Level, kept: Level) -> jax.Array:
        kept = _per_picture(kept, x, "kept")
        return kept * x + (1 - kept) * blur(x, width, radius=12)

    luma = jnp.mean(noise, axis=-1, keepdims=True)
    noise = smoothed(luma, luma_blur, luma_kept) + smoothed(noise - luma, chroma_blur, chroma_kept)
    return jnp.clip(clean + noise, 0, 1)


def _through_mosaic(
    noise: Float[Array, "B H W 3"], by_difference: Level = 0.0
) -> Float[Array, "B H W 3"]:
    """What is left of a field after sampling it in a Bayer pattern and interpolating linearly.

    Green by itself; red and blue as differences from so much of it as `by_difference` says.
    """
    height, width = noise.shape[1:3]
    # The pattern has a period of two, and neighbours are looked for around the edges.
    noise = jnp.pad(noise, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="wrap")
    rows = jnp.arange(noise.shape[1])[:, None] % 2
    columns = jnp.arange(noise.shape[2])[None, :] % 2
    red, blue = (rows + columns) == 0, (rows * columns) == 1

    def neighbours(x: jax.Array, axis: int) -> jax.Array:
        return jnp.roll(x, 1, axis) + jnp.roll(x, -1, axis)

    seen = jnp.where(red | blue, 0, noise[..., 1])
    green = seen + (neighbours(seen, 1) + neighbours(seen, 2)) / 4  # every other pixel has it
    base = _per_picture(by_difference, noise, "by_difference") * green[..., None]
    sites = jnp.stack([red, blue], axis=-1)
    seen = jnp.where(sites, noise[..., ::2] - base, 0)
    side = neighbours(seen, 1) + neighbours(seen, 2)
    corners = neighbours(neighbours(seen, 1), 2)
    others = base + seen + side / 2 + corners / 4  # one pixel of four has them
    filled = jnp.stack([others[..., 0], green, others[..., 1]], axis=-1)
    return filled[:, :height, :width]


def noise_before_resizing(
    add_noise: Callable[[Float[Array, "B H2 W2 C"]], Float[Array, "B H2 W2 C"]],
    clean: Float[Array, "B H W C"],
    factor: Level,
) -> Float[Array, "B H W C"]:
    """`clean + R(add_noise(x) - x)`: the noise that a picture had before it was resized.

    R resizes by `factor`, with bicubic interpolation that averages where it makes smaller, as
    programs for pictures do, and x is `clean` resized by `1 / factor`. So only the noise is
    resampled: no detail of the picture is lost.

    Args:
      add_noise: maps pictures of twice the height and width to noisy ones. Where the factor is
        larger than a half, what is beyond the picture is black.
      clean: pictures in [0, 1].
      factor: at least a half; a number, or one for each picture.
    """
    height, width = clean.shape[1:3]
    factors = jnp.broadcast_to(jnp.asarray(factor, clean.dtype), clean.shape[:1])

    def resize(x: jax.Array, by: jax.Array, size: tuple[int, int]) -> jax.Array:
        shape, scale = (*size, x.shape[-1]), jnp.stack([by, by])
        shift = jnp.zeros_like(scale)
        return jax.image.scale_and_translate(x, shape, (0, 1), scale, shift, "cubic")

    def before(x: jax.Array, by: jax.Array) -> jax.Array:
        return resize(x, 1 / by, (2 * height, 2 * width))

    def after(x: jax.Array, by: jax.Array) -> jax.Array:
        return resize(x, by, (height, width))

    x = jax.vmap(before)(clean, factors)
    return clean + jax.vmap(after)(add_noise(x) - x, factors)
