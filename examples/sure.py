"""How good is a denoised picture, without the clean one? Stein's estimate, by Monte Carlo.

    python examples/sure.py

The estimate's own error is about sigma^2 * sqrt(2 / n), so large pictures are judged best.
For white Gaussian noise of known sigma the mean squared error of y -> f(y) is, without bias,
|f(y) - y|^2 / n - sigma^2 + 2 sigma^2 / n * (the divergence of f at y), and for normal b the mean
of b . (the derivative of f along b) is that divergence. Ramani, Blu and Unser, IEEE TIP 2008.
"""

import jax
import jax.numpy as jnp
import numpy as np

import sa_flax
from sa_flax.data import PHOTOGRAPHS
from sa_flax.pictures import read_rgb8


def stein(denoise, noisy, sigma: float, key: jax.Array) -> jax.Array:
    """The estimate of mean((denoise(noisy) - clean)^2); units are those of noisy, squared."""
    denoised, derivative = jax.linearize(denoise, noisy)
    probes = jax.random.normal(key, (4, *noisy.shape))
    divergence = jnp.mean(probes * jax.vmap(derivative)(probes))
    return jnp.mean((denoised - noisy) ** 2) - sigma**2 + 2 * sigma**2 * divergence


def main(size: int = 192) -> dict[int, tuple[float, float]]:
    """Noise level on the 0-255 scale -> PSNR in dB, estimated and true."""
    denoiser = sa_flax.Denoiser.from_pretrained("color")
    picture = read_rgb8(PHOTOGRAPHS / "budgie-roman-colosseum.jpg")
    clean = jnp.asarray(picture[96 : 96 + size, 96 : 96 + size], jnp.float32) / 255
    estimate = jax.jit(lambda noisy, sigma, key: stein(denoise, noisy, sigma, key))

    def denoise(noisy):
        return denoiser.apply(denoiser.params, noisy)

    found = {}
    for level in (10, 25, 50):
        draw, probe = jax.random.split(jax.random.key(level))
        noisy = sa_flax.functional.gaussian_noise(draw, clean, level / 255)
        true = jnp.mean((denoise(noisy) - clean) ** 2)
        errors = np.asarray([estimate(noisy, level / 255, probe), true])
        found[level] = tuple(float(decibels) for decibels in -10 * np.log10(errors))
    return found


if __name__ == "__main__":
    for level, (estimated, true) in main().items():
        print(
            f"sigma {level}: {estimated:.2f} dB estimated without the clean picture, {true:.2f} dB"
        )
