"""How close a picture is to the true one: PSNR (decibels) and SSIM, per picture.

Pictures are (B, H, W, C) or (H, W, C): floats in [0, 1], or 8 or 16 bits as they come from a file.
Whatever they are, the arithmetic is float32 (float64 for float64).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

# The largest value of pictures of whole numbers. Other integer types don't say what white is.
_WHITE = {"uint8": 255.0, "uint16": 65535.0}

Range = float | Real[Array, ""]


def _compared(
    a: Array | np.ndarray, b: Array | np.ndarray, data_range: Range | None
) -> tuple[Array, Array, Array]:
    """Both pictures, and the range that they are compared on, in one float dtype."""
    if a.shape != b.shape or a.ndim not in (3, 4):
        raise ValueError(
            f"pictures to compare must have one shape, (H, W, C) or (B, H, W, C); got {a.shape} "
            f"and {b.shape}."
        )
    dtypes = [jnp.dtype(picture.dtype) for picture in (a, b)]
    if not all(jnp.issubdtype(dtype, jnp.floating) or dtype.kind in "iu" for dtype in dtypes):
        raise ValueError(
            f"pictures to compare must hold real numbers; got {dtypes[0]} and {dtypes[1]}."
        )
    if data_range is None:
        whites = {
            1.0 if jnp.issubdtype(dtype, jnp.floating) else _WHITE.get(dtype.name)
            for dtype in dtypes
        }
        if None in whites or len(whites) > 1:
            raise ValueError(
                f"can't tell the range of values of {dtypes[0]} and {dtypes[1]} pictures: both "
                f"must be floats in [0, 1], or both uint8, or both uint16. Convert one of them "
                f"(uint8 to [0, 1]: x.astype(jnp.float32) / 255), or, where both have the same "
                f"range of values, give it as data_range."
            )
        (data_range,) = whites
    # JAX keeps NumPy's float64 only where the user has allowed it.
    double = any(jnp.asarray(picture).dtype == jnp.float64 for picture in (a, b))
    dtype = jnp.float64 if double else jnp.float32
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype), jnp.asarray(data_range, dtype)


def psnr(
    a: Real[Array | np.ndarray, "*B H W C"],
    b: Real[Array | np.ndarray, "*B H W C"],
    *,
    data_range: Range | None = None,
) -> Float[Array, "*B"]:
    """Peak signal-to-noise ratio in decibels: `10 log10(data_range^2 / mean((a - b)^2))`.

    The mean is over height, width and channels of each picture; equal pictures give infinity.

    Args:
      a, b: pictures of one shape and one range of values.
      data_range: the largest value less the smallest; None for 1 for floats, 255 for uint8 and
        65535 for uint16.

    Returns:
      Decibels, a number for each picture, in float32 (float64 for float64).

    Raises:
      ValueError: for different shapes, or pictures whose range of values can't be told from their
        dtypes, such as one of uint8 and one of floats.
    """
    a, b, span = _compared(a, b, data_range)
    mse = jnp.mean(jnp.square(a - b), axis=(-3, -2, -1))
    return 10 * jnp.log10(span**2 / mse)


def _gaussian_window(sigma: float, truncate: float) -> np.ndarray:
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * np.square(offsets / sigma))
    return weights / weights.sum()


def ssim(
    a: Real[Array | np.ndarray, "*B H W C"],
    b: Real[Array | np.ndarray, "*B H W C"],
    *,
    data_range: Range | None = None,
    sigma: float = 1.5,
) -> Float[Array, "*B"]:
    """Structural similarity, averaged over channels and over the pixels whose window is inside.

    Gaussian windows of standard deviation `sigma` pixels (11 x 11 at 1.5), biased covariances,
    K1 = 0.01, K2 = 0.03: scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1, channel_axis=-1)`. Definitions differ between
    packages; name this one beside the number. Wang et al., IEEE TIP 13(4), 2004.

    Args:
      a, b: pictures of one shape and one range of values.
      data_range: the largest value less the smallest; None for 1 for floats, 255 for uint8 and
        65535 for uint16.
      sigma: standard deviation of the window, in pixels.

    Returns:
      A number of at most 1 for each picture, in float32 (float64 for float64).

    Raises:
      ValueError: for pictures smaller than the window, a window without width, and where `psnr`
        raises it.
    """
    a, b, span = _compared(a, b, data_range)
    if not sigma > 0:
        raise ValueError(f"sigma, the width of SSIM's window, must be above 0; got {sigma}.")
    window = [float(weight) for weight in _gaussian_window(sigma, 3.5)]
    size = len(window)
    if min(a.shape[-3:-1]) < size:
        raise ValueError(
            f"SSIM with sigma={sigma} needs pictures of at least {size} x {size}; got "
            f"{a.shape[-3]} x {a.shape[-2]}."
        )

    def blur(x):
        height, width = x.shape[-3] - size + 1, x.shape[-2] - size + 1
        rows = sum(w * x[..., i : i + height, :, :] for i, w in enumerate(window))
        return sum(w * rows[..., i : i + width, :] for i, w in enumerate(window))

    # Moments about the picture's mean: about 0 the squares of a bright flat picture would drown its
    # variance in float32, and pictures come out more alike than equal ones.
    middle = jnp.mean(a, axis=(-3, -2), keepdims=True)
    off_a, off_b = a - middle, b - middle
    local_a, local_b = blur(off_a), blur(off_b)
    var_a = blur(off_a * off_a) - local_a**2
    var_b = blur(off_b * off_b) - local_b**2
    covariance = blur(off_a * off_b) - local_a * local_b
    mean_a, mean_b = local_a + middle, local_b + middle
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))
