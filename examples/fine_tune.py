"""Fine-tunes a trained network on one's own noise, with the encoder frozen.

    python examples/fine_tune.py

The noise here is blurred, as that of a phone's camera is: the network `color` knows white noise
only and takes it for texture. What is frozen gets no gradient, no moments and no update.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sa_flax
from sa_flax.data import PHOTOGRAPHS
from sa_flax.noise import Correlated
from sa_flax.pictures import read_rgb8

FROZEN = nnx.Any(*map(nnx.PathContains, ("head", "encoder", "down")))
TRAINED = nnx.All(nnx.Param, nnx.Not(FROZEN))


def crops(rng: np.random.Generator, pictures, count: int, size: int) -> np.ndarray:
    """(count, size, size, 3) in [0, 1], from anywhere."""
    cut = []
    for _ in range(count):
        picture = pictures[rng.integers(len(pictures))]
        top, left = (rng.integers(side - size + 1) for side in picture.shape[:2])
        cut.append(picture[top : top + size, left : left + size])
    return np.stack(cut).astype(np.float32) / 255


def main(steps: int = 100, count: int = 8, size: int = 64) -> tuple[float, float, nnx.Module]:
    """PSNR in dB on other pictures, before and after; and the network."""
    noise = Correlated(sigma_range=(25.0, 25.0), blur_range=(0.8, 0.8))
    model, _ = sa_flax.from_pretrained("color")
    optimizer = nnx.Optimizer(model, optax.adam(3e-4), wrt=TRAINED)
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))
    pictures = [read_rgb8(file) for file in files]
    rng = np.random.default_rng(0)

    @nnx.jit
    def step(model, optimizer, clean, key):
        noisy, _ = noise(key, clean)

        def loss(model):
            return jnp.mean(jnp.abs(model(noisy) - clean))

        grads = nnx.grad(loss, argnums=nnx.DiffState(0, TRAINED))(model)
        optimizer.update(model, grads)

    @nnx.jit
    def quality(model, clean):
        noisy, _ = noise(jax.random.key(0), clean)
        return jnp.mean(sa_flax.functional.psnr(model(noisy), clean))

    held_out = jnp.asarray(crops(rng, pictures[:6], 2 * count, size))
    before = float(quality(model, held_out))
    for number in range(steps):
        clean = jnp.asarray(crops(rng, pictures[6:], count, size))
        step(model, optimizer, clean, jax.random.key(number))
    return before, float(quality(model, held_out)), model


if __name__ == "__main__":
    print("{:.2f} dB before, {:.2f} dB after".format(*main()[:2]))
