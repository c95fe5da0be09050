"""Trains several networks at once by vmap; where they disagree, the result is uncertain.

python examples/ensemble.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sa_flax
from sa_flax.data import PHOTOGRAPHS
from sa_flax.pictures import read_rgb8


def main(members: int = 3, steps: int = 100, size: int = 32) -> dict[str, float]:
    """PSNR in dB of the members and of their mean; how well spread and error go together."""

    @nnx.split_rngs(splits=members)
    @nnx.vmap
    def create(rngs):
        return sa_flax.create_model("attention_unet", width=8, levels=2, rngs=rngs)

    models = create(nnx.Rngs(0))  # every parameter has one axis more, of length `members`
    optimizer = nnx.Optimizer(models, optax.adam(2e-3), wrt=nnx.Param)
    # Each member has kernels of its own, which CPUs have slow convolutions for; GPUs don't mind.
    everyone = nnx.vmap(lambda model, noisy: model(noisy), in_axes=(0, None))

    @nnx.jit
    def step(models, optimizer, clean, key):
        noisy = sa_flax.functional.gaussian_noise(key, clean, 25 / 255)
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean((everyone(m, noisy) - clean) ** 2))(
            models
        )
        optimizer.update(models, grads)
        return loss

    pictures = [read_rgb8(file) for file in sorted(PHOTOGRAPHS.glob("budgie*.jpg"))]
    rng = np.random.default_rng(0)

    def crops(count: int) -> jax.Array:
        cut = []
        for _ in range(count):
            picture = pictures[rng.integers(len(pictures))]
            top, left = (rng.integers(side - size + 1) for side in picture.shape[:2])
            cut.append(picture[top : top + size, left : left + size])
        return jnp.asarray(np.stack(cut), jnp.float32) / 255

    for number in range(steps):
        step(models, optimizer, crops(4), jax.random.key(number))

    clean = crops(16)
    noisy = sa_flax.functional.gaussian_noise(jax.random.key(1_000_000), clean, 25 / 255)
    results = everyone(models, noisy)  # (members, 16, size, size, 3)
    psnr, mean = sa_flax.functional.psnr, results.mean(0)
    spread, error = results.std(0).reshape(-1), jnp.abs(mean - clean).reshape(-1)
    return {
        "noisy": float(jnp.mean(psnr(noisy, clean))),
        "members": float(jnp.mean(jax.vmap(lambda x: psnr(x, clean))(results))),
        "their mean": float(jnp.mean(psnr(mean, clean))),
        "correlation": float(jnp.corrcoef(spread, error)[0, 1]),
    }


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: {value:.2f}")
