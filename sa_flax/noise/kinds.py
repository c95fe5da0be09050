"""Noise of one kind each."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from sa_flax.limits import ABOVE_ZERO, INCREASING, LEVEL, NOT_NEGATIVE, SHARE, check_fields

if TYPE_CHECKING:
    import jax

# JAX is imported where noise is drawn: configurations and `--help` are read without it.

Noisy = tuple["jax.Array", "jax.Array | None"]
Span = tuple[float, float]


class NoiseKind:
    def __call__(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        """Pictures (B, H, W, C) in [0, 1] with noise, and its standard deviation in each, (B,)
        float32 in [0, 1] units; None where `has_level` is False.

        Raises:
          ValueError: for other pictures, and for options outside their limits.
        """
        from sa_flax.functional.checks import check_floating

        name = type(self).__name__
        check_fields(self, None)
        clean = check_floating(name, clean, "the picture")
        if clean.ndim != 4:
            raise ValueError(f"{name} takes (B, H, W, C) pictures; got shape {clean.shape}.")
        return self._drawn(key, clean)

    def _drawn(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        raise NotImplementedError


@dataclass(frozen=True)
class Gaussian(NoiseKind):
    """White Gaussian noise of one level, independent in every channel."""

    kind: Literal["gaussian"] = field(default="gaussian", init=False)
    sigma: Annotated[float, LEVEL] = 25.0
    """Standard deviation, 0-255."""
    clip: bool = False
    """Clip noisy pictures to the range of the picture, as a sensor does."""

    has_level: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"Gaussian, sigma {self.sigma:g} of 255{_clipped(self.clip)}"

    def _drawn(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        import jax.numpy as jnp

        from sa_flax.functional.noise import gaussian_noise

        sigma = jnp.full((clean.shape[0],), self.sigma / 255, jnp.float32)
        return gaussian_noise(key, clean, sigma, clip=self.clip), sigma


@dataclass(frozen=True)
class Blind(NoiseKind):
    """White Gaussian noise whose level is drawn for each picture: trains blind denoisers."""

    kind: Literal["blind"] = field(default="blind", init=False)
    sigma_range: Annotated[Span, LEVEL, INCREASING] = (0.0, 55.0)
    """Lowest and highest standard deviation, 0-255."""
    clip: bool = False
    """Clip noisy pictures to the range of the picture, as a sensor does."""

    has_level: ClassVar[bool] = True

    def __str__(self) -> str:
        low, high = self.sigma_range
        return (
            f"Gaussian, sigma uniform in {low:g}-{high:g} of 255, unknown to the network"
            f"{_clipped(self.clip)}"
        )

    def _drawn(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        import jax

        from sa_flax.functional.noise import gaussian_noise, uniform_levels

        level_key, noise_key = jax.random.split(key)
        low, high = self.sigma_range
        sigma = uniform_levels(level_key, clean.shape[0], low / 255, high / 255)
        return gaussian_noise(noise_key, clean, sigma, clip=self.clip), sigma


@dataclass(frozen=True)
class PoissonGaussian(NoiseKind):
    """A sensor's noise: Poisson for the light, Gaussian for the read-out."""

    kind: Literal["poisson_gaussian"] = field(default="poisson_gaussian", init=False)
    gain: Annotated[float, ABOVE_ZERO] = 2.0
    """Units of the 0-255 scale per photon."""
    read_noise: Annotated[float, LEVEL] = 4.0
    """Standard deviation of the read-out, 0-255."""
    clip: bool = False
    """Clip noisy pictures to the range of the picture, as a sensor does."""

    has_level: ClassVar[bool] = False

    def __str__(self) -> str:
        return (
            f"Poisson-Gaussian, gain {self.gain:g}, read noise {self.read_noise:g} of 255"
            f"{_clipped(self.clip)}"
        )

    def _drawn(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        from sa_flax.functional.noise import poisson_gaussian_noise

        noisy = poisson_gaussian_noise(
            key, clean, self.gain / 255, read_noise=self.read_noise / 255, clip=self.clip
        )
        return noisy, None


@dataclass(frozen=True)
class Correlated(NoiseKind):
    """Gaussian noise that neighbouring pixels and the channels share in part.

    The channels' covariance is drawn for each picture, from independent to fully shared; so are the
    widths of the blur.
    """

    kind: Literal["correlated"] = field(default="correlated", init=False)
    sigma_range: Annotated[Span, LEVEL, INCREASING] = (0.0, 55.0)
    """Lowest and highest standard deviation, 0-255."""
    blur_range: Annotated[Span, NOT_NEGATIVE, INCREASING] = (0.0, 1.0)
    """Narrowest and widest blur of the noise in brightness, in pixels."""
    chroma_blur_range: Annotated[Span, NOT_NEGATIVE, INCREASING] = (0.0, 1.8)
    """The same in colour."""
    shared: Annotated[float, SHARE] = 0.4
    """In this share of the pictures, all channels have one noise."""
    clip: bool = False
    """Clip noisy pictures to the range of the picture, as a sensor does."""

    has_level: ClassVar[bool] = False

    def __str__(self) -> str:
        low, high = self.sigma_range
        return (
            f"Gaussian, sigma uniform in {low:g}-{high:g} of 255, blurred by "
            f"{self.blur_range[0]:g}-{self.blur_range[1]:g} pixels, correlated between the "
            f"channels{_clipped(self.clip)}"
        )

    def _drawn(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        import jax
        import jax.numpy as jnp

        from sa_flax.functional.noise import correlated_noise, uniform_levels

        keys = jax.random.split(key, 6)
        batch, channels = clean.shape[0], clean.shape[-1]
        low, high = self.sigma_range
        sigma = uniform_levels(keys[0], batch, low / 255, high / 255)
        # Rows of unit length, turned towards one direction by a random amount.
        mixing = jax.random.normal(keys[1], (batch, channels, channels))
        mixing += jax.random.uniform(keys[2], (batch, 1, 1), maxval=3.0)
        mixing /= jnp.linalg.norm(mixing, axis=-1, keepdims=True)
        shared = jax.random.bernoulli(keys[3], float(self.shared), (batch, 1, 1))
        mixing = jnp.where(shared, mixing[:, :1], mixing)
        noisy = correlated_noise(
            keys[4],
            clean,
            sigma,
            mixing=mixing,
            luma_blur=uniform_levels(keys[5], batch, *self.blur_range),
            chroma_blur=uniform_levels(
                jax.random.fold_in(keys[5], 1), batch, *self.chroma_blur_range
            ),
            clip=self.clip,
        )
        return noisy, None


@dataclass(frozen=True)
class Camera(NoiseKind):
    """A photograph's noise: Poisson-Gaussian in linear light, then what a camera does to it.

    Gains, white balance, saturation, mosaic and the camera's own smoothing are drawn for each
    picture. Brooks et al., CVPR 2019: read noise follows shot noise as theirs does.
    """

    kind: Literal["camera"] = field(default="camera", init=False)
    shot_range: Annotated[Span, ABOVE_ZERO, INCREASING] = (3e-5, 1.5e-2)
    """Lowest and highest variance for each unit of linear light; drawn evenly on a log scale."""
    mosaic: Annotated[float, SHARE] = 0.8
    """Share of the pictures whose noise went through a Bayer mosaic."""
    by_difference: Annotated[float, SHARE] = 0.7
    """Share of those whose red and blue were interpolated by their difference from green."""
    contrast: Annotated[float, SHARE] = 0.6
    """Share of the pictures that went through a contrast curve, and not a gamma alone."""
    smoothing: Annotated[float, SHARE] = 0.5
    """Share of the pictures that the camera itself has smoothed."""

    has_level: ClassVar[bool] = False

    def __str__(self) -> str:
        low, high = self.shot_range
        return f"a camera's, shot noise {low:g}-{high:g} in linear light"

    def _drawn(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        import jax
        import jax.numpy as jnp

        from sa_flax.functional.noise import camera_noise, uniform_levels

        keys = jax.random.split(key, 12)
        batch, channels = clean.shape[0], clean.shape[-1]
        low, high = jnp.log(jnp.asarray(self.shot_range))
        log_shot = jax.random.uniform(keys[0], (batch,), minval=low, maxval=high)
        # Of the variances: a line on the log-log scale, with the spread that real sensors have.
        log_read = 2.18 * log_shot + 1.2 + 0.26 * jax.random.normal(keys[1], (batch,))
        balance = jnp.stack(
            [
                jax.random.uniform(keys[2], (batch,), minval=1.4, maxval=2.4),
                jnp.ones((batch,)),
                jax.random.uniform(keys[3], (batch,), minval=1.3, maxval=2.0),
            ],
            axis=-1,
        )

        def chosen(key: jax.Array, share: float) -> jax.Array:
            picked = jax.random.bernoulli(key, float(share), (batch,))
            return picked.astype(clean.dtype)

        by_difference, contrast = (jax.random.fold_in(key, number) for number in (12, 13))
        smoothed = chosen(keys[4], self.smoothing) > 0

        def log_uniform(key: jax.Array, low: float, high: float) -> jax.Array:
            return jnp.exp(uniform_levels(key, batch, math.log(low), math.log(high)))

        noisy = camera_noise(
            keys[5],
            clean,
            jnp.exp(log_shot),
            jnp.exp(log_read / 2),
            white_balance=balance if channels == 3 else None,
            saturation=uniform_levels(keys[6], batch, 0.0, 1.0),
            mosaic=chosen(keys[7], self.mosaic),
            by_difference=chosen(by_difference, self.by_difference),
            contrast=chosen(contrast, self.contrast),
            luma_blur=jnp.where(smoothed, log_uniform(keys[8], 0.3, 3.0), 0),
            chroma_blur=jnp.where(smoothed, log_uniform(keys[9], 0.8, 6.0), 0),
            luma_kept=uniform_levels(keys[10], batch, 0.0, 1.2),
            chroma_kept=uniform_levels(keys[11], batch, 0.0, 0.4) ** 2,
        )
        return noisy, None


def _clipped(clip: bool) -> str:
    return ", clipped" if clip else ""
