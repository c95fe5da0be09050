"""Every public function and whole small networks, compiled in float32, against float64.

`python -m tests.in_float64 NAME...` prints {name: [error of outputs, error of gradients]}, in parts
of the root mean square. A process of its own, since it compiles with the options that the commands
set; `tests/test_right_numbers.py` runs it.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sa_flax
from sa_flax import functional as F

MAP = (2, 181, 185, 8)  # 66,970 positions, of odd sides
PICTURE = (2, 181, 185, 3)
# Where time grows with the square of a map's positions, and where that square is the result: more
# than 32,768 rows in all.
PAIR = (2, 129, 131, 8)
MANY = (533, 7, 9, 8)

rng = np.random.default_rng(0)


class Case(NamedTuple):
    """`function(state, x)`; where it decides or rounds, single values may differ: `of` the mean."""

    function: Callable[[Any, jax.Array], Any]
    state: Any
    shape: tuple[int, ...]
    of: Callable[[np.ndarray], Any] = np.max


def moved(state: Any) -> Any:
    """Every parameter away from where it starts: gates that do something."""
    return jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape), state)


def of_map(function: Callable, shape: tuple[int, ...] = MAP, of: Callable = np.max) -> Case:
    return Case(lambda state, x: function(x), (), shape, of)


def attention(
    function: Callable, params: Any, shape: tuple[int, ...] = MAP, **options: Any
) -> Case:
    chosen = {"affinity": options["affinity"]} if "affinity" in options else {}
    state = moved(params.init(jax.random.key(0), shape[-1], **chosen))
    return Case(lambda state, x: function(x, state, **options), state, shape)


def vectors(function: Callable, count: int) -> Case:
    """With so many parameters of a number for each channel."""
    state = moved(tuple(jnp.ones(MAP[-1]) for _ in range(count)))
    return Case(lambda state, x: function(x, *state), state, MAP)


def compared(function: Callable) -> Case:
    return of_map(lambda x: function(x, 0.9 * x[:, ::-1] + 0.05), PICTURE)


def noise(function: Callable, *levels: float, **options: Any) -> Case:
    return of_map(lambda x: function(jax.random.key(0), x, *levels, **options), PICTURE)


def network(name: str, **options: Any) -> Case:
    graph, state = nnx.split(sa_flax.create_model(name, rngs=nnx.Rngs(0), **options))
    return Case(lambda s, x: nnx.merge(graph, s, copy=True)(x), moved(state), PICTURE)


def unet(**options: Any) -> Case:
    return network("attention_unet", channels=3, width=4, levels=3, attend="both", **options)


def by_camera(x: jax.Array) -> jax.Array:
    return F.camera_noise(
        jax.random.key(0), x, 2**-8, 2**-6, saturation=0.5, luma_blur=0.5, chroma_blur=1.5,
        luma_kept=1.2, chroma_kept=0.1, mosaic=jnp.array([0, 1], x.dtype),
        by_difference=jnp.array([0, 1], x.dtype), contrast=jnp.array([1, 0], x.dtype),
        white_balance=jnp.array([[2.0, 1.0, 1.5], [1.5, 1.0, 2.0]], x.dtype),
    )  # fmt: skip


def in_common(x: jax.Array) -> jax.Array:
    mixing = jnp.array([[[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.8, 0.0, 0.6]]] * 2, x.dtype)
    return F.correlated_noise(
        jax.random.key(0), x, 0.1, mixing=mixing, luma_blur=0.5, chroma_blur=1.5
    )


def resized(x: jax.Array) -> jax.Array:
    def grows_with_light(y: jax.Array) -> jax.Array:
        return y + 0.3 * y * jnp.sin(jnp.arange(y.shape[2], dtype=y.dtype))[None, None, :, None]

    return F.noise_before_resizing(grows_with_light, x, jnp.array([0.5, 1.3], x.dtype))


WINDOW = {"window": (33, 41)}
# Name of the public function, and what is special about the case -> what makes it.
CASES: dict[str, Callable[[], Case]] = {
    # Masks.
    "cbam": lambda: attention(F.cbam, F.CBAMParams),
    "cbam, window": lambda: attention(F.cbam, F.CBAMParams, **WINDOW),
    "cbam_maps": lambda: attention(F.cbam_maps, F.CBAMParams),
    "dual_attention": lambda: attention(F.dual_attention, F.DualAttentionParams),
    "dual_attention, window": lambda: attention(F.dual_attention, F.DualAttentionParams, **WINDOW),
    "dual_attention_maps": lambda: attention(F.dual_attention_maps, F.DualAttentionParams),
    "eca": lambda: attention(F.eca, F.ECAParams),
    "eca, window": lambda: attention(F.eca, F.ECAParams, **WINDOW),
    "eca_maps": lambda: attention(F.eca_maps, F.ECAParams),
    "sge": lambda: attention(F.sge, F.SGEParams),
    "sge, window": lambda: attention(F.sge, F.SGEParams, **WINDOW),
    "sge_maps": lambda: attention(F.sge_maps, F.SGEParams),
    "squeeze_excite": lambda: attention(F.squeeze_excite, F.SqueezeExciteParams),
    "squeeze_excite, window": lambda: attention(F.squeeze_excite, F.SqueezeExciteParams, **WINDOW),
    "squeeze_excite_maps": lambda: attention(F.squeeze_excite_maps, F.SqueezeExciteParams),
    # Shuffle attention and its parts.
    "shuffle_attention": lambda: attention(F.shuffle_attention, F.ShuffleAttentionParams),
    "shuffle_attention, window": lambda: attention(
        F.shuffle_attention, F.ShuffleAttentionParams, **WINDOW
    ),
    "shuffle_attention, textbook": lambda: attention(
        F.shuffle_attention, F.ShuffleAttentionParams, implementation="textbook"
    ),
    "shuffle_attention_maps": lambda: attention(F.shuffle_attention_maps, F.ShuffleAttentionParams),
    "channel_gate": lambda: vectors(F.channel_gate, 2),
    "spatial_gate": lambda: vectors(F.spatial_gate, 4),
    "group_norm": lambda: vectors(F.group_norm, 2),
    "group_split": lambda: of_map(lambda x: F.group_split(x, 2)),
    "group_merge": lambda: of_map(lambda x: F.group_merge(x, x[:, ::-1], 2)),
    "channel_shuffle": lambda: of_map(F.channel_shuffle),
    "channel_unshuffle": lambda: of_map(F.channel_unshuffle),
    "fold_channel_shuffle": lambda: of_map(lambda x: F.fold_channel_shuffle(x, axis=-1)),
    # Affinities.
    "attend": lambda: of_map(
        lambda x: F.attend(*(x.reshape(2, -1, 8)[..., a:b] for a, b in ((0, 2), (2, 4), (4, 8)))),
        PAIR,
    ),
    "channel_attention": lambda: of_map(F.channel_attention),
    "danet": lambda: attention(F.danet, F.DANetParams, PAIR),
    "danet_maps": lambda: attention(F.danet_maps, F.DANetParams, MANY),
    "non_local": lambda: attention(F.non_local, F.NonLocalParams, PAIR, subsample=2),
    "non_local, many": lambda: attention(F.non_local, F.NonLocalParams, MANY),
    "non_local, gaussian": lambda: attention(
        F.non_local, F.NonLocalParams, MANY, affinity="gaussian"
    ),
    "non_local, dot_product": lambda: attention(
        F.non_local, F.NonLocalParams, affinity="dot_product"
    ),
    "non_local, concatenation": lambda: attention(
        F.non_local, F.NonLocalParams, MANY, affinity="concatenation"
    ),
    "non_local_maps": lambda: attention(F.non_local_maps, F.NonLocalParams, MANY),
    "self_attention": lambda: attention(F.self_attention, F.SelfAttentionParams, PAIR),
    "self_attention_maps": lambda: attention(F.self_attention_maps, F.SelfAttentionParams, MANY),
    "non_local_means": lambda: of_map(
        lambda x: F.non_local_means(x, patch_distance=3, h=0.5, approximate=False), PICTURE
    ),
    "non_local_means, approximate": lambda: of_map(
        lambda x: F.non_local_means(x, patch_distance=3, h=0.5, sigma=0.1), PICTURE, np.mean
    ),
    "non_local_means, whole picture": lambda: of_map(
        lambda x: F.non_local_means(x, patch_distance=None, h=0.5), (*MANY[:3], 3)
    ),
    # Statistics and how close pictures are.
    "centred_and_variance": lambda: of_map(F.centred_and_variance),
    "centred_and_variance, window": lambda: of_map(
        lambda x: F.centred_and_variance(x, window=(9, 41))
    ),
    "spatial_max": lambda: of_map(F.spatial_max),
    "spatial_mean": lambda: of_map(F.spatial_mean),
    "spatial_mean, window": lambda: of_map(lambda x: F.spatial_mean(x, **WINDOW)),
    "psnr": lambda: compared(F.psnr),
    "ssim": lambda: compared(F.ssim),
    # Noise, of the same draws; gains that make the Poisson distribution's mean exact.
    "blur": lambda: of_map(lambda x: F.blur(x, 1.3), PICTURE),
    "camera_noise": lambda: of_map(by_camera, PICTURE),
    "correlated_noise": lambda: of_map(in_common, PICTURE),
    "from_linear": lambda: of_map(F.from_linear, PICTURE),
    "gaussian_noise": lambda: noise(F.gaussian_noise, 0.1, clip=True),
    "jpeg_compress": lambda: of_map(lambda x: F.jpeg_compress(x, 60.0), PICTURE, np.mean),
    "jpeg_compress, 4:4:4": lambda: of_map(
        lambda x: F.jpeg_compress(x, 90.0, subsampling="4:4:4"), PICTURE, np.mean
    ),
    "noise_before_resizing": lambda: of_map(resized, PICTURE),
    "poisson_gaussian_noise": lambda: noise(F.poisson_gaussian_noise, 2**-7, read_noise=0.02),
    "to_linear": lambda: of_map(F.to_linear, PICTURE),
    "uniform_levels": lambda: of_map(
        lambda x: F.uniform_levels(jax.random.key(0), 66_970, 0.1, 0.9, x.dtype)
    ),
    # What was computed wrong, and whole networks.
    "a small product under a sum": lambda: of_map(
        lambda x: jnp.sum((x @ jnp.eye(3, dtype=x.dtype)) ** 2, axis=-1), PICTURE
    ),
    "the U-Net": lambda: network("attention_unet", channels=3, width=4, levels=3, attention="none"),
    "the U-Net, shuffle": lambda: unet(attention="shuffle"),
    "the U-Net, cbam": lambda: unet(attention="cbam"),
    "the U-Net, dual": lambda: unet(attention="dual"),
    "the U-Net, sge": lambda: unet(attention="sge"),
    "DnCNN": lambda: network("dncnn", channels=3, depth=5, width=8),
}


@contextlib.contextmanager
def drawn_as_in_float32() -> Iterator[None]:
    """The random numbers of float32, and what is made of them in float64."""
    normal, poisson, uniform = jax.random.normal, jax.random.poisson, jax.random.uniform
    open_end = np.nextafter(np.float32(-1), np.float32(0))

    def wide_normal(key, shape, dtype):
        drawn = uniform(key, shape, jnp.float32, open_end, np.float32(1))
        return np.sqrt(2) * jax.lax.erf_inv(drawn.astype(dtype))

    def wide_uniform(key, shape, dtype, low, high):
        return low + (high - low) * uniform(key, shape, jnp.float32).astype(dtype)

    def narrow_poisson(key, mean):
        return poisson(key, mean.astype(jnp.float32), dtype=jnp.int32)

    jax.random.normal, jax.random.poisson = wide_normal, narrow_poisson  # type: ignore[assignment]
    jax.random.uniform = wide_uniform  # type: ignore[assignment]
    try:
        yield
    finally:
        jax.random.normal, jax.random.poisson, jax.random.uniform = normal, poisson, uniform


def compare(case: Case) -> tuple[float, float]:
    """Errors of outputs and gradients, of the state and of x."""
    # Of values that float32 has; away from 0 and 1, where a camera's tone curve is steep.
    x = np.float64(np.float32(0.05 + 0.9 * rng.random(case.shape)))
    state = jax.tree.map(lambda p: np.float64(np.float32(p)), case.state)

    def loss(state, x, weights):
        y = case.function(state, x)
        pairs = zip(jax.tree.leaves(y), weights, strict=True)
        return sum(jnp.mean(part * weight) for part, weight in pairs), y

    def both(dtype, weights):
        def cast(tree):
            return jax.tree.map(lambda array: jnp.asarray(array, dtype), tree)

        gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (_, y), found = gradients(cast(state), cast(x), cast(weights))
        return [np.float64(part) for part in jax.tree.leaves(y)], jax.tree.leaves(found)

    shapes = jax.tree.leaves(jax.eval_shape(case.function, narrow(state), narrow(x)))
    weights = [np.float64(rng.random(part.shape)) for part in shapes]
    with jax.enable_x64(True), drawn_as_in_float32():
        exact = both(jnp.float64, weights)
    found = both(jnp.float32, weights)
    outputs = max(error(a, b, case.of) for a, b in zip(found[0], exact[0], strict=True))
    # A ReLU may be on here and off there, which is no wrong number: gradients on the whole.
    gradients = max(error(a, b, np.mean) for a, b in zip(found[1], exact[1], strict=True))
    return outputs, gradients


def narrow(tree: Any) -> Any:
    return jax.tree.map(jnp.float32, tree)


def error(found: Any, exact: Any, of: Callable) -> float:
    """Root of the largest or mean square error, in parts of the root mean square."""
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    assert found.shape == exact.shape
    assert np.isfinite(found).all()
    return float(np.sqrt(of(np.square(found - exact)) / max(np.mean(np.square(exact)), 1e-24)))


if __name__ == "__main__":
    from sa_flax.xla_flags import tune_cpu

    tune_cpu()
    print(json.dumps({name: compare(CASES[name]()) for name in sys.argv[1:]}))
