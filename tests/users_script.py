"""A researcher's script, as a type checker sees it; `tests/test_types.py` has it checked."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sa_flax
from sa_flax import (
    CBAM,
    AttentionUNet,
    Denoiser,
    ShuffleAttention,
    create_model,
    from_pretrained,
    functional,
    list_attentions,
    make_attention,
    noise,
    porting,
    save_pretrained,
)
from sa_flax.functional import ShuffleAttentionParams, psnr, shuffle_attention, ssim
from sa_flax.inference.evaluate import evaluate, format_table
from sa_flax.modules import Downsample, set_window
from sa_flax.pictures import from_unit, read_picture, to_unit, write_picture


class Scale(nnx.Module):
    """An attention of one's own."""

    def __init__(
        self, features: int, *, rngs: nnx.Rngs, param_dtype: jax.typing.DTypeLike = jnp.float32
    ) -> None:
        self.scale = nnx.Param(jnp.ones(features, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.scale[...]


def networks(noisy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Networks by class and by name, with attentions by name, of one's own and by place."""
    rngs = nnx.Rngs(0)
    unet = AttentionUNet(channels=3, width=16, levels=3, blocks=(1, 1, 2), rngs=rngs)
    own = AttentionUNet(attention=Scale, attend="both", rngs=rngs)
    placed = AttentionUNet(
        attention={0: "eca", "bottom": "self_attention"},
        attention_options={"bottom": {"heads": 2}},
        dtype=jnp.bfloat16,
        rngs=rngs,
    )
    maps: dict[str, jax.Array] = unet.attention_maps(noisy)["decoder.0"]
    first: jax.Array = create_model("dncnn", channels=1, rngs=rngs)(noisy)
    learned: jax.Array = unet.with_window((96, 96))(noisy) + own(noisy) + placed(noisy)
    return learned, first + sum(map(jnp.sum, maps.values()))


def layers(x: jax.Array) -> jax.Array:
    """Layers, alone and by name, and the pure function behind one."""
    rngs = nnx.Rngs(params=0)
    layer = ShuffleAttention(64, groups=8, dtype="bfloat16")
    gates: dict[str, jax.Array] = CBAM(64, rngs=rngs).attention_maps(x)
    for kind in list_attentions():
        x = make_attention(kind, 64, rngs=rngs)(x)
    set_window(layer, (32, 32))
    params = ShuffleAttentionParams.init(jax.random.key(0), 64)
    gradient: ShuffleAttentionParams = jax.grad(lambda p: jnp.sum(shuffle_attention(x, p)))(params)
    x = functional.non_local(x, functional.NonLocalParams.init(jax.random.key(1), 64))
    x = functional.eca(x, functional.ECAParams.init(jax.random.key(1), 64), window=(9, 9))
    y: jax.Array = Downsample(64, 128, rngs=rngs)(layer(x))
    return y + gates["channel"] + gradient.channel_weight


def train_step(model: AttentionUNet, clean: jax.Array, key: jax.Array) -> jax.Array:
    """Noise, a loss and its gradient."""
    noisy = functional.gaussian_noise(key, clean, 25 / 255)
    noisy = functional.poisson_gaussian_noise(key, noisy, 0.01, read_noise=0.02)
    worse, sigma = noise.Blind(sigma_range=(0.0, 55.0))(key, noisy)
    if sigma is not None:
        worse = worse + 0 * sigma[:, None, None, None]

    def loss(model: AttentionUNet) -> jax.Array:
        return jnp.mean((model(worse) - clean) ** 2)

    value, _gradient = nnx.value_and_grad(loss)(model)
    result: jax.Array = value
    return result


def denoise(path: Path, clean: jax.Array, photograph: np.ndarray) -> float:
    """A network out of the package, on pictures and inside of `jax.jit`."""
    denoiser = Denoiser.from_pretrained("color-blind", dtype="bfloat16", window=(96, 96))
    forward = jax.jit(denoiser.apply)
    restored = forward(denoiser.params, clean)
    batch = jax.vmap(denoiser.apply, in_axes=(None, 0))(denoiser.params, clean)
    whole = denoiser(photograph, strength=0.8, self_ensemble=True)
    on_device = denoiser(clean)
    quality = psnr(restored, clean) + psnr(batch, clean, data_range=1.0) + ssim(on_device, clean)
    picture = read_picture(path)
    write_picture(path.with_suffix(".png"), picture)
    unit, scale = to_unit(picture.pixels)
    print(whole.dtype, from_unit(unit, scale).shape)
    return float(quality.mean())


def weights(folder: Path) -> dict[str, np.ndarray]:
    """To a folder and back, to PyTorch and back."""
    model, config = from_pretrained("gray-blind")
    save_pretrained(model, folder, config=config, dtype=np.float16)
    again: nnx.Module = sa_flax.from_pretrained(folder, dtype=jnp.bfloat16)[0]
    state = porting.to_torch(again)
    porting.load_torch(model, state)
    porting.write_checkpoint(folder / "w.safetensors", state)
    dncnn = porting.from_torch("dncnn", folder / "w.safetensors")
    rows = evaluate({"mine": Denoiser(dncnn).method}, [], noises={"25": noise.Gaussian()})
    print(format_table(rows), sa_flax.__version__)
    return state
