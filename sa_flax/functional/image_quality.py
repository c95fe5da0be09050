"""How close a picture is to the true one: PSNR (decibels) and SSIM, per picture.

Pictures are float arrays (B, H, W, C) or (H, W, C) in [0, 1].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _check_same_shape(a: jax.Array, b: jax.Array) -> None:
    if a.shape != b.shape or a.ndim not in (3, 4):
        raise ValueError(
            f"pictures to compare must have one shape, (H, W, C) or (B, H, W, C); got {a.shape} "
            f"and {b.shape}."
        )


def psnr(
    a: Float[Array, "*B H W C"], b: Float[Array, "*B H W C"], *, data_range: float = 1.0
) -> Float[Array, "*B"]:
    """Peak signal-to-noise ratio in decibels: `10 log10(data_range^2 / mean((a - b)^2))`.

    The mean is over height, width and channels of each picture; equal pictures give infinity.
    """
    _check_same_shape(a, b)
    mse = jnp.mean(jnp.square(a - b), axis=(-3, -2, -1))
    return 10 * jnp.log10(data_range**2 / mse)


def _gaussian_window(sigma: float, truncate: float, dtype) -> Float[Array, " K"]:
    radius = int(truncate * sigma + 0.5)
    offsets = jnp.arange(-radius, radius + 1, dtype=dtype)
    weights = jnp.exp(-0.5 * jnp.square(offsets / sigma))
    return weights / weights.sum()


def ssim(
    a: Float[Array, "*B H W C"],
    b: Float[Array, "*B H W C"],
    *,
    data_range: float = 1.0,
    sigma: float = 1.5,
) -> Float[Array, "*B"]:
    """Structural similarity, averaged over channels and over the pixels whose window is inside.

    Gaussian windows of standard deviation `sigma` pixels (11 x 11 at 1.5), biased covariances,
    K1 = 0.01, K2 = 0.03: scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1, channel_axis=-1)`. Definitions differ between
    packages; name this one beside the number. Wang et al., IEEE TIP 13(4), 2004.
    """
    _check_same_shape(a, b)
    window = _gaussian_window(sigma, 3.5, a.dtype)
    size = window.shape[0]
    if min(a.shape[-3:-1]) < size:
        raise ValueError(
            f"SSIM with sigma={sigma} needs pictures of at least {size} x {size}; got "
            f"{a.shape[-3]} x {a.shape[-2]}."
        )

    def blur(x):
        height, width = x.shape[-3] - size + 1, x.shape[-2] - size + 1
        rows = sum(w * x[..., i : i + height, :, :] for i, w in enumerate(window))
        return sum(w * rows[..., i : i + width, :] for i, w in enumerate(window))

    mean_a, mean_b = blur(a), blur(b)
    var_a = blur(a * a) - mean_a**2
    var_b = blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return jnp.mean(luminance * structure, axis=(-3, -2, -1))
