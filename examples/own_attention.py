"""An attention of one's own in the U-Net, beside those of the library.

    python examples/own_attention.py

Whatever is called as `Kind(features, rngs=..., param_dtype=...)` and maps (B, H, W, features) to
the same shape is an attention. A method `attention_maps` shows what it does inside.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import sa_flax
from sa_flax.data import PHOTOGRAPHS
from sa_flax.pictures import read_rgb8


class Contrast(nnx.Module):
    """Gates every channel by its standard deviation: `x * sigmoid(weight * deviation + bias)`."""

    def __init__(self, features: int, *, rngs: nnx.Rngs, param_dtype=jnp.float32):
        self.weight = nnx.Param(jnp.zeros(features, param_dtype))
        self.bias = nnx.Param(jnp.full(features, 2.0, param_dtype))

    def gate(self, x):
        deviation = jnp.sqrt(jnp.var(x, axis=(-3, -2), keepdims=True) + 1e-6)
        return jax.nn.sigmoid(self.weight[...] * deviation + self.bias[...])

    def __call__(self, x):
        return x * self.gate(x)

    def attention_maps(self, x):
        return {"gate": self.gate(x)}


def main(steps: int = 100, size: int = 48) -> tuple[float, float, dict[str, tuple[int, ...]]]:
    """PSNR in dB of noisy and denoised crops; the shapes of all gates, by place."""
    model = sa_flax.create_model(
        "attention_unet",
        width=8,
        levels=3,
        attention={0: Contrast, 1: "cbam", "bottom": Contrast},  # by level (0 is full resolution)
        attend="both",
        rngs=nnx.Rngs(0),
    )
    optimizer = nnx.Optimizer(model, optax.adam(2e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, clean, key):
        noisy = sa_flax.functional.gaussian_noise(key, clean, 25 / 255)
        grads = nnx.grad(lambda model: jnp.mean((model(noisy) - clean) ** 2))(model)
        optimizer.update(model, grads)

    picture = read_rgb8(PHOTOGRAPHS / "budgie-colorful-wall.jpg") / np.float32(255)
    rng = np.random.default_rng(0)

    def crops(count: int) -> jax.Array:
        tops, lefts = (rng.integers(0, side - size + 1, count) for side in picture.shape[:2])
        corners = zip(tops, lefts, strict=True)
        return jnp.stack([picture[top : top + size, left : left + size] for top, left in corners])

    for number in range(steps):
        step(model, optimizer, crops(8), jax.random.key(number))

    clean = crops(8)
    noisy = sa_flax.functional.gaussian_noise(jax.random.key(1_000_000), clean, 25 / 255)
    psnr = sa_flax.functional.psnr
    gates = model.attention_maps(noisy)
    shapes = {
        f"{place}: {name}": x.shape for place, maps in gates.items() for name, x in maps.items()
    }
    return float(jnp.mean(psnr(noisy, clean))), float(jnp.mean(psnr(model(noisy), clean))), shapes


if __name__ == "__main__":
    noisy, denoised, shapes = main()
    print(f"noisy {noisy:.2f} dB, denoised {denoised:.2f} dB; gates:")
    for place, shape in shapes.items():
        print(f"  {place} {shape}")
