"""Non-local means: the classical denoiser, an affinity with patches as queries and keys.

It is what the affinities of `sa_flax.functional.affinities` learn to do better: there the likeness
of two positions is a product of learned features, here it is the distance of the patches around
them, and in both the result is a mean of the pixels, weighted by likeness.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sa_flax.functional.blockwise import attend
from sa_flax.functional.checks import check_map
from sa_flax.functional.statistics import statistics_dtype

# Squared patch distance (in units of h^2) beyond which scikit-image takes a weight to be 0.
_CUTOFF = 5.0


def non_local_means(
    x: Float[Array, "... H W C"],
    *,
    patch_size: int = 5,
    patch_distance: int | None = 6,
    h: float | Float[Array, ""] = 0.1,
    sigma: float | Float[Array, ""] = 0.0,
    approximate: bool = True,
) -> Float[Array, "... H W C"]:
    """Denoises pictures by averaging pixels whose surroundings look alike.

    With P_i the patch around pixel i, of s x s pixels and C channels, and j running over the pixels
    at most `patch_distance` rows and columns away from i and inside the picture:

        out_i = sum_j w_ij x_j / sum_j w_ij,   w_ij = exp(-max(d_ij, 0))
        d_ij = sum_{ab} g_ab sum_c ((P_i - P_j)^2_abc - 2 sigma^2) / (C h^2 sum_ab g_ab)

    and g_ab = exp(-(a^2 + b^2) / (2 ((s - 1) / 4)^2). Patches reach beyond the edges into a mirror
    image that does not repeat the edge. This is scikit-image's `denoise_nl_means(x, patch_size,
    patch_distance, h, fast_mode=False, sigma=sigma, channel_axis=-1)`, to 1e-7 (float32: 1e-6).
    Costs (2 patch_distance + 1)^2 (C + 2 s) operations or so a pixel, and memory of a few pictures.

    Args:
      x: pictures in [0, 1], float; any number of channels.
      patch_size: side s of the patches in pixels; an even number counts as the next odd one.
      patch_distance: how far to search, in pixels. None searches the whole picture, as an affinity
        of all pixels (`attend`), in time quadratic in the pixels: the original definition.
      h: how unlike patches may be, in units of x. With sigma known, 0.6 sigma is a good start.
      sigma: standard deviation of the noise in units of x: its share in the distances is
        subtracted.
      approximate: weigh as scikit-image does, with an exponential interpolated between powers of
        two (within 6 %) and no weight for patches whose first rows are further than 5 apart. False
        computes the formula above as it stands; so does a search of the whole picture.

    Raises:
      ValueError: for pictures that are not (..., H, W, C) of floating-point numbers (C = 1 where
        they are gray), or patches, distances or h that are not positive.

    Buades, Coll and Morel, "A non-local algorithm for image denoising", CVPR 2005.
    """
    x = check_map("non_local_means", x)
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1 pixel; got {patch_size}.")
    if patch_distance is not None and patch_distance < 1:
        raise ValueError(
            f"patch_distance must be at least 1 pixel, or None for the whole picture; got "
            f"{patch_distance}."
        )
    if isinstance(h, float | int | np.ndarray | np.generic) and not np.all(np.asarray(h) > 0):
        raise ValueError(f"h, how unlike patches may be, must be above 0; got {h}.")
    wide = x.astype(statistics_dtype(x.dtype))
    h, sigma = (jnp.asarray(value, wide.dtype) for value in (h, sigma))
    taps = _gaussian_taps(patch_size)
    if patch_distance is None:
        return _whole_picture(wide, taps, h, sigma).astype(x.dtype)
    return _by_shifts(wide, taps, patch_distance, h, sigma, approximate).astype(x.dtype)


def _gaussian_taps(patch_size: int) -> list[float]:
    """Weights of the rows (and of the columns) of a patch, summing to 1."""
    radius = patch_size // 2
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / (radius / 2)) ** 2) if radius else np.ones(1)
    # Python's floats take the dtype of what they multiply, NumPy's would make float64 of it.
    return (taps / taps.sum()).tolist()


def _mirror(x: Float[Array, "... H W C"], radius: int) -> Float[Array, "... H2 W2 C"]:
    for axis in (x.ndim - 3, x.ndim - 2):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (radius, radius)
        # A single row or column has no neighbour to mirror: it is repeated.
        x = jnp.pad(x, pad, mode="edge" if x.shape[axis] == 1 else "reflect")
    return x


def _interpolated_exp(y: jax.Array) -> jax.Array:
    """scikit-image's exponential: straight lines between (shifted) powers of two.

    It writes a scaled y into the bits of a float (Schraudolph, Neural Computation 11(4), 1999),
    which reads as 2^k (1 + f) for k + f = y / log(2) - 60801 / 2^20.
    """
    exponent = y / math.log(2) - 60801 / 2**20
    whole = jnp.floor(exponent)
    return jnp.exp2(whole) * (1 + exponent - whole)


def _by_shifts(x, taps: list[float], distance: int, h, sigma, approximate: bool) -> jax.Array:
    """All pixels at once against themselves shifted, one shift after the other."""
    *lead, height, width, channels = x.shape
    size = len(taps)
    radius = size // 2
    padded = _mirror(x, radius)
    reach = (min(distance, height - 1), min(distance, width - 1))
    margin = [(0, 0)] * len(lead) + [(reach[0], reach[0]), (reach[1], reach[1]), (0, 0)]
    # What is read from this margin never counts: those pixels are outside the picture.
    surrounded = jnp.pad(padded, margin)
    rows = jnp.arange(height, dtype=jnp.int32)[:, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None]

    @jax.checkpoint
    def weigh(shift):
        other = surrounded
        for axis in (-3, -2):
            start = reach[axis + 3] + shift[axis + 3]
            other = jax.lax.dynamic_slice_in_dim(other, start, padded.shape[axis], axis)
        squares = jnp.sum(jnp.square(padded - other), axis=-1) - 2 * channels * sigma**2
        along = sum(tap * squares[..., j : j + width] for j, tap in enumerate(taps))
        total = jnp.zeros_like(x[..., 0])
        near = jnp.ones_like(total, dtype=bool)
        for i, tap in enumerate(taps):
            near &= total <= _CUTOFF
            total += tap / (channels * h**2) * along[..., i : i + height, :]
        total = -jnp.maximum(total, 0)
        weight = jnp.where(near, _interpolated_exp(total), 0) if approximate else jnp.exp(total)
        row, column = rows + shift[0], columns + shift[1]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight = jnp.where(inside, weight, 0)[..., None]
        return weight, weight * other[..., radius : radius + height, radius : radius + width, :]

    def step(sums, shift):
        return jax.tree.map(jnp.add, sums, weigh(shift)), None

    shifts = np.stack(
        np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    sums = (jnp.zeros_like(x[..., :1]), jnp.zeros_like(x))
    (weights, values), _ = jax.lax.scan(step, sums, jnp.asarray(shifts, jnp.int32))
    return values / weights


def _whole_picture(x, taps: list[float], h, sigma) -> jax.Array:
    """Patches as queries and keys, pixels as values: -|p - q|^2 is a product of longer vectors."""
    *lead, height, width, channels = x.shape
    # Distances do not change with the mean, but their rounding errors do.
    centred = x - jnp.mean(x, axis=(-3, -2, -1), keepdims=True)
    padded = _mirror(centred, len(taps) // 2)
    patches = jnp.concatenate(
        [
            math.sqrt(a * b / channels) / h * padded[..., i : i + height, j : j + width, :]
            for i, a in enumerate(taps)
            for j, b in enumerate(taps)
        ],
        axis=-1,
    ).reshape(*lead, height * width, -1)
    norms = jnp.sum(jnp.square(patches), axis=-1, keepdims=True)
    ones = jnp.ones_like(norms)
    queries = jnp.concatenate([2 * patches, -norms, ones], axis=-1)
    keys = jnp.concatenate([patches, ones, -norms], axis=-1)

    def weigh(scores):
        return jnp.exp(jnp.minimum(scores + 2 * (sigma / h) ** 2, 0))

    pixels = x.reshape(*lead, height * width, channels)
    return attend(queries, keys, pixels, weigh=weigh).reshape(x.shape)
