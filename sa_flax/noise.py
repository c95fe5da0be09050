"""Noise: what a configuration says of it, and the thing itself.

Each class is an entry of the configuration (its fields are the options, with their limits) and a
function at once: `noise(key, clean) -> (noisy, sigma)`. To add one, write its class here, what it
does in `_drawn`, and name it in `NOISES`: training, evaluation, `sa-flax add-noise` and the texts
take it from there.

Levels in the fields are on the 0-255 scale of papers; pictures are (B, H, W, C) in [0, 1].
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from sa_flax.limits import ABOVE_ZERO, INCREASING, LEVEL, NOT_NEGATIVE, SHARE, Limit, check_fields

if TYPE_CHECKING:
    import jax

# JAX is imported where noise is drawn: configurations and `--help` are read without it.

Noisy = tuple["jax.Array", "jax.Array | None"]
Span = tuple[float, float]


class _Noise:
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
class Gaussian(_Noise):
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
class Blind(_Noise):
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
class PoissonGaussian(_Noise):
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
class Correlated(_Noise):
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
class Camera(_Noise):
    """A photograph's noise: Poisson-Gaussian in linear light, then what a camera does to it.

    Gains, white balance, saturation, mosaic and the camera's own smoothing are drawn for each
    picture. Brooks et al., CVPR 2019: read noise follows shot noise as theirs does.
    """

    kind: Literal["camera"] = field(default="camera", init=False)
    shot_range: Annotated[Span, ABOVE_ZERO, INCREASING] = (3e-5, 1.5e-2)
    """Lowest and highest variance for each unit of linear light; drawn evenly on a log scale."""
    mosaic: Annotated[float, SHARE] = 0.6
    """Share of the pictures whose noise went through a Bayer mosaic."""
    smoothing: Annotated[float, SHARE] = 0.6
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
        smoothed = jax.random.bernoulli(keys[4], float(self.smoothing), (batch,))

        def log_uniform(key: jax.Array, low: float, high: float) -> jax.Array:
            return jnp.exp(uniform_levels(key, batch, math.log(low), math.log(high)))

        noisy = camera_noise(
            keys[5],
            clean,
            jnp.exp(log_shot),
            jnp.exp(log_read / 2),
            white_balance=balance if channels == 3 else None,
            saturation=uniform_levels(keys[6], batch, 0.0, 1.0),
            mosaic=jax.random.bernoulli(keys[7], float(self.mosaic), (batch,)).astype(clean.dtype),
            luma_blur=jnp.where(smoothed, log_uniform(keys[8], 0.3, 3.0), 0),
            chroma_blur=jnp.where(smoothed, log_uniform(keys[9], 0.8, 6.0), 0),
            luma_kept=uniform_levels(keys[10], batch, 0.0, 1.2),
            chroma_kept=uniform_levels(keys[11], batch, 0.0, 0.4) ** 2,
        )
        return noisy, None


@dataclass(frozen=True)
class Photo(_Noise):
    """All that people's pictures come with: a mixture, drawn anew for each picture.

    White, correlated or camera noise or none; clipped or not; compressed by JPEG afterwards or not,
    and then in 8 bits. Some have gone through all this before they were resized, and are clipped
    and compressed once more or not. A gray picture (all channels equal) stays gray: its channels
    share the noise.
    """

    kind: Literal["photo"] = field(default="photo", init=False)
    white: Annotated[float, SHARE] = 0.30
    """Share of the pictures with white Gaussian noise, as `blind`."""
    correlated: Annotated[float, SHARE] = 0.30
    """Share with noise as `correlated`."""
    camera: Annotated[float, SHARE] = 0.30
    """Share with noise as `camera`. What the three leave over has no noise."""
    clipped: Annotated[float, SHARE] = 0.5
    """Share that is clipped to the range of the picture."""
    jpeg: Annotated[float, SHARE] = 0.3
    """Share that is compressed at the end."""
    quality_range: Annotated[Span, Limit(1, 100), INCREASING] = (30.0, 100.0)
    """Lowest and highest JPEG quality."""
    cropped: Annotated[float, SHARE] = 0.5
    """Share of the compressed that were cropped since, so that JPEG's blocks begin anywhere."""
    resized: Annotated[float, SHARE] = 0.2
    """Share that has been resized since (its noise is drawn on four times the pixels)."""
    resized_by: Annotated[Span, Limit(0.5, 4), INCREASING] = (0.5, 1.6)
    """Smallest and largest factor; drawn evenly on a log scale."""

    has_level: ClassVar[bool] = False
    of_one_whole: ClassVar[tuple[str, ...]] = ("white", "correlated", "camera")

    def __str__(self) -> str:
        return (
            f"a photograph's: {self.white:.0%} white, {self.correlated:.0%} correlated, "
            f"{self.camera:.0%} camera; {self.jpeg:.0%} compressed by JPEG; "
            f"{self.resized:.0%} resized since"
        )

    def _drawn(self, key: "jax.Array", clean: "jax.Array") -> Noisy:
        import jax
        import jax.numpy as jnp

        keys = jax.random.split(key, 8)
        gray = jnp.all(clean == clean[..., :1], axis=(1, 2, 3), keepdims=True)
        noisy = self._taken(keys[:5], clean, gray)
        if self.resized * clean.shape[0] > 0:
            noisy = self._resized(jax.random.fold_in(key, 8), clean, noisy, gray)
        return self._saved(keys[5:], noisy), None

    def _taken(self, keys: "jax.Array", clean: "jax.Array", gray: "jax.Array") -> "jax.Array":
        """With noise, clipped or not. `keys`: five."""
        import jax
        import jax.numpy as jnp

        batch = (clean.shape[0], 1, 1, 1)
        noisy = clean
        drawn = jax.random.uniform(keys[0], batch)
        below = 0.0
        parts: tuple[tuple[float, Noise], ...] = (
            (self.white, Blind()),
            (self.correlated, Correlated()),
            (self.camera, Camera()),
        )
        for index, (share, noise) in enumerate(parts):
            if share > 0:  # what is never drawn need not be compiled
                chosen = (below <= drawn) & (drawn < below + share)
                noisy = jnp.where(chosen, noise(keys[1 + index], clean)[0], noisy)
            below += share
        noisy = _shared_where(gray, noisy)
        clipped = jax.random.bernoulli(keys[4], float(self.clipped), batch)
        return jnp.where(clipped, jnp.clip(noisy, 0, 1), noisy)

    def _saved(self, keys: "jax.Array", noisy: "jax.Array") -> "jax.Array":
        """Compressed by JPEG, or not. `keys`: three."""
        import jax
        import jax.numpy as jnp

        from sa_flax.functional.jpeg import jpeg_compress
        from sa_flax.functional.noise import uniform_levels

        if self.jpeg == 0:
            return noisy
        batch = (noisy.shape[0], 1, 1, 1)
        height, width = noisy.shape[1:3]
        offset_key, cropped_key = (jax.random.fold_in(keys[0], number) for number in (1, 2))
        offset = jax.random.randint(offset_key, (batch[0], 2), 0, 16)
        cropped = jax.random.bernoulli(cropped_key, float(self.cropped), (batch[0], 1))
        offset = jnp.where(cropped, offset, 0)
        move = jax.vmap(lambda x, by: jnp.roll(x, by, (0, 1)))

        whole = move(jnp.pad(noisy, [(0, 0), (0, 16), (0, 16), (0, 0)], mode="edge"), offset)
        quality = uniform_levels(keys[0], batch[0], *self.quality_range)
        half, full = (jpeg_compress(whole, quality, subsampling=s) for s in ("4:2:0", "4:4:4"))
        compressed = jnp.where(jax.random.bernoulli(keys[1], 0.6, batch), half, full)
        compressed = move(compressed, -offset)[:, :height, :width]
        return jnp.where(jax.random.bernoulli(keys[2], float(self.jpeg), batch), compressed, noisy)

    def _resized(
        self, key: "jax.Array", clean: "jax.Array", noisy: "jax.Array", gray: "jax.Array"
    ) -> "jax.Array":
        """`noisy`, of which some have had noise, and were saved, before they were resized.

        They are among the first of the batch, so that few are drawn at the larger size.
        """
        import jax
        import jax.numpy as jnp

        from sa_flax.functional.noise import noise_before_resizing

        few = math.ceil(self.resized * clean.shape[0])
        keys = jax.random.split(key, 10)

        def saved(x: jax.Array) -> jax.Array:
            return self._saved(keys[5:8], self._taken(keys[:5], x, gray[:few]))

        low, high = (math.log(factor) for factor in self.resized_by)
        factor = jnp.exp(jax.random.uniform(keys[8], (few,), minval=low, maxval=high))
        resized = jnp.clip(noise_before_resizing(saved, clean[:few], factor), 0, 1)
        resized = _shared_where(gray[:few], resized)
        chance = self.resized * clean.shape[0] / few
        chosen = jax.random.bernoulli(keys[9], chance, (few, 1, 1, 1))
        return noisy.at[:few].set(jnp.where(chosen, resized, noisy[:few]))


def _shared_where(gray: "jax.Array", x: "jax.Array") -> "jax.Array":
    """Gray pictures with their first channel in all; `gray`: (B, 1, 1, 1).

    As a sum, since XLA moves a slice to the front of all that `x` comes from, and does it twice.
    """
    import jax.numpy as jnp

    first = jnp.arange(x.shape[-1]) == 0
    return jnp.where(gray, jnp.sum(jnp.where(first, x, 0), axis=-1, keepdims=True), x)


def _clipped(clip: bool) -> str:
    return ", clipped" if clip else ""


Noise = Gaussian | Blind | PoissonGaussian | Correlated | Camera | Photo
NOISES: dict[str, type[Noise]] = {
    noise.kind: noise for noise in (Gaussian, Blind, PoissonGaussian, Correlated, Camera, Photo)
}
