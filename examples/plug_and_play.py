"""Deblurs a photograph with a denoiser as the prior: plug and play, by half-quadratic splitting.

    python examples/plug_and_play.py

Zhang et al., "Plug-and-Play Image Restoration with Deep Denoiser Prior", TPAMI 2021."""

import jax
import jax.numpy as jnp
import numpy as np

import sa_flax
from sa_flax.data import PHOTOGRAPHS
from sa_flax.pictures import read_rgb8


def main(size: int = 192, iterations: int = 8) -> tuple[float, float]:
    """PSNR in dB of the blurred picture and of the result."""
    denoiser = sa_flax.Denoiser.from_pretrained("color")
    picture = read_rgb8(PHOTOGRAPHS / "budgie-roman-colosseum.jpg") / np.float32(255)
    clean = picture[96 : 96 + size, 96 : 96 + size]
    frequencies = np.fft.fftfreq(size)
    gauss = np.exp(-2 * (np.pi * 1.6 * frequencies) ** 2)  # a blur of 1.6 pixels
    blur, sigma = jnp.asarray(np.outer(gauss, gauss), jnp.float32)[..., None], 2.55 / 255
    blurred = jnp.fft.ifft2(jnp.fft.fft2(clean, axes=(0, 1)) * blur, axes=(0, 1)).real
    blurred = sa_flax.functional.gaussian_noise(jax.random.key(0), blurred, sigma)

    def iterate(x, level):  # how far the fit may go from x falls with the level
        weight = (sigma / level) ** 2
        mixed = blur * jnp.fft.fft2(blurred, axes=(0, 1)) + weight * jnp.fft.fft2(x, axes=(0, 1))
        fitted = jnp.fft.ifft2(mixed / (blur**2 + weight), axes=(0, 1)).real
        return denoiser.apply(denoiser.params, fitted), None

    levels = jnp.geomspace(25 / 255, 2.55 / 255, iterations)
    result, _ = jax.jit(lambda x: jax.lax.scan(iterate, x, levels))(blurred)
    return tuple(float(sa_flax.functional.psnr(x, clean)) for x in (blurred, result))


if __name__ == "__main__":
    print("blurred {:.2f} dB, deblurred {:.2f} dB".format(*main()))
