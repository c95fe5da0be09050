"""What JPEG does to a picture, as a function of arrays: for training on compressed pictures."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_floating
from sa_flax.functional.statistics import statistics_dtype

# ITU-T T.81, annex K: the quantisation tables for luminance and chrominance at quality 50.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# ITU-R BT.601 luma and the colour differences scaled to [-0.5, 0.5], as JFIF has them.
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_CHROMA_OFFSET = np.array([0, 128, 128]).reshape(1, 1, 1, 3)
_TO_RGB = np.linalg.inv(_TO_YCC)

# The orthonormal DCT-II of 8 values: row k is the cosine of frequency k.
_DCT = np.sqrt(np.where(np.arange(8) == 0, 1 / 8, 1 / 4))[:, None] * np.cos(
    np.pi * np.outer(np.arange(8), 2 * np.arange(8) + 1) / 16
)


def jpeg_compress(
    x: Float[Array, "B H W C"],
    quality: float | Float[Array, ""] | Float[Array, " B"],
    *,
    subsampling: str = "4:2:0",
) -> Float[Array, "B H W C"]:
    """Pictures as they come back from a JPEG file: compressed, and decoded again.

    Everything that loses information is done, in floating point: colour differences (averaged over
    2 x 2 pixels for 4:2:0, and interpolated back), 8 x 8 DCT, division by the quantisation tables
    of libjpeg's `quality`, rounding, and all the way back to 8 bits. Entropy coding loses nothing
    and is left out. Libjpeg computes in integers: most values are the same or differ by a gray
    level or two, but where a coefficient falls to the other side in rounding its block differs by
    up to a step of the quantisation. The arithmetic is float32 (float64 for float64). The
    derivative is zero: rounding has none.

    Args:
      x: pictures in [0, 1], gray (C = 1) or RGB (C = 3). They are rounded to 8 bits first.
      quality: 1 to 100, one number or one for each picture.
      subsampling: of the colour differences, "4:2:0" or "4:4:4".

    Returns:
      Pictures in [0, 1], whole multiples of 1/255.

    Raises:
      ValueError: for another number of channels, another subsampling, and for pictures that are
        not of floating-point numbers.

    ITU-T T.81 (1992); JFIF 1.02.
    """
    x = check_floating("jpeg_compress", x, "the picture")
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise ValueError(f"JPEG holds (B, H, W, 1) or (B, H, W, 3) pictures; got {x.shape}.")
    if subsampling not in ("4:2:0", "4:4:4"):
        raise ValueError(f"subsampling must be '4:2:0' or '4:4:4'; got {subsampling!r}.")
    batch, height, width, channels = x.shape
    quality = jnp.broadcast_to(jnp.asarray(quality, statistics_dtype(x.dtype)), (batch,))
    levels = _to_8_bits(x)
    levels = jnp.pad(levels, [(0, 0), (0, -height % 16), (0, -width % 16), (0, 0)], mode="edge")
    if channels == 1:
        decoded = _quantise(levels, quality, _LUMA)
    else:
        to_ycc, offset, to_rgb = (
            jnp.asarray(table, levels.dtype) for table in (_TO_YCC.T, _CHROMA_OFFSET, _TO_RGB.T)
        )
        ycc = jnp.round(levels @ to_ycc + offset)
        luma = _quantise(ycc[..., :1], quality, _LUMA)
        chroma = ycc[..., 1:]
        if subsampling == "4:2:0":
            chroma = _enlarge(_quantise(_halve(chroma), quality, _CHROMA))
        else:
            chroma = _quantise(chroma, quality, _CHROMA)
        ycc = jnp.concatenate([luma, chroma], axis=-1)
        decoded = jnp.clip(jnp.round((ycc - offset) @ to_rgb), 0, 255)
    return (decoded / 255)[:, :height, :width].astype(x.dtype)


def _to_8_bits(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    return jnp.round(jnp.clip(x.astype(statistics_dtype(x.dtype)), 0, 1) * 255)


def _table(quality: Float[Array, " B"], table: np.ndarray) -> Float[Array, "B 8 8"]:
    """libjpeg's table for a quality: 50 is the standard's own, 100 is all ones."""
    low = jnp.floor(5000 / jnp.maximum(quality, 1))
    scale = jnp.where(quality < 50, low, 200 - 2 * quality)
    steps = jnp.asarray(table[None], quality.dtype) * scale[:, None, None]
    return jnp.clip(jnp.floor((steps + 50) / 100), 1, 255)


def _quantise(
    x: Float[Array, "B H W C"], quality: Float[Array, " B"], table: np.ndarray
) -> Float[Array, "B H W C"]:
    """Every 8 x 8 block through DCT, quantisation, and back to whole levels from 0 to 255."""
    batch, height, width, channels = x.shape
    dct = jnp.asarray(_DCT, x.dtype)
    blocks = (x - 128).reshape(batch, height // 8, 8, width // 8, 8, channels)
    spectrum = jnp.einsum("ka,bhawvc,lv->bhkwlc", dct, blocks, dct)
    steps = _table(quality, table)[:, None, :, None, :, None]
    spectrum = jnp.round(spectrum / steps) * steps
    decoded = jnp.einsum("ka,bhkwlc,lv->bhawvc", dct, spectrum, dct).reshape(x.shape)
    return jnp.clip(jnp.round(decoded + 128), 0, 255)


def _halve(x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
    """Means of 2 x 2 pixels, halves rounded up and down in turn along a row, as libjpeg does."""
    batch, height, width, channels = x.shape
    sums = x.reshape(batch, height // 2, 2, width // 2, 2, channels).sum((2, 4))
    bias = jnp.asarray(np.arange(width // 2) % 2 + 1, x.dtype)[None, None, :, None]
    return jnp.floor((sums + bias) / 4)


def _enlarge(x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
    """Linear interpolation at the centres of the pixels: 3/4 of the nearest, 1/4 of the next."""
    for axis in (1, 2):
        last = x.shape[axis] - 1
        before = jnp.take(x, np.maximum(np.arange(last + 1) - 1, 0), axis)
        after = jnp.take(x, np.minimum(np.arange(last + 1) + 1, last), axis)
        pair = jnp.stack([(3 * x + before) / 4, (3 * x + after) / 4], axis + 1)
        shape = list(x.shape)
        shape[axis] *= 2
        x = pair.reshape(shape)
    return x
