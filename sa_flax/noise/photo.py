"""The mixture that people's pictures come with."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from sa_flax.limits import INCREASING, SHARE, Limit
from sa_flax.noise.kinds import Blind, Camera, Correlated, NoiseKind, Noisy, Span

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Photo(NoiseKind):
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
        parts: tuple[tuple[float, NoiseKind], ...] = (
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
