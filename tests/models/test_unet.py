"""The attention U-Net: sizes, positions of attention, conditioning, dtypes, stability."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sa_flax
from sa_flax.models.unet import pad_to_multiple
from sa_flax.modules import ShuffleAttention
from tests.annotations import refuses, unchecked
from tests.slow import some_slow


def small(**options) -> nnx.Module:
    rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))  # quick to compile
    return sa_flax.create_model("attention_unet", **{"width": 8, "levels": 3, **options}, rngs=rngs)


@nnx.jit
def run(model: nnx.Module, *args) -> jax.Array:
    return model(*args)


def picture(*shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(1), shape)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 16, 24, 3), (1, 13, 7, 3), (1, 5, 2, 3)])
def test_any_height_and_width(shape):
    x = picture(*shape)
    y = run(small(), x)
    chex.assert_equal_shape([x, y])
    chex.assert_tree_all_finite(y)


def test_padding_mirrors_without_repeating_the_edge():
    x = jnp.arange(5.0).reshape(1, 1, 5, 1)
    np.testing.assert_array_equal(pad_to_multiple(x, 4)[0, 0, :, 0], [0, 1, 2, 3, 4, 3, 2, 1])
    chex.assert_shape(pad_to_multiple(x, 4), (1, 4, 8, 1))
    narrow = jnp.arange(2.0).reshape(1, 2, 1, 1)
    np.testing.assert_array_equal(pad_to_multiple(narrow, 4)[0, :, 0, 0], [0, 1, 0, 1])


def test_gray():
    x = picture(1, 9, 9, 1)
    chex.assert_equal_shape([x, run(small(channels=1), x)])


@pytest.mark.parametrize(
    ("attend", "count"), [("none", 0), ("encoder", 2), ("decoder", 2), ("both", 5)]
)
def test_where_attention_stands(attend, count):
    model = small(attend=attend)
    found = [path for path, m in model.iter_modules() if isinstance(m, ShuffleAttention)]
    assert len(found) == count
    if attend in ("encoder", "decoder"):
        assert all(path[0] == attend for path in found)


@pytest.mark.parametrize(
    "attention",
    some_slow(["none", *sa_flax.list_attentions()], "none", "shuffle", "dual", "non_local"),
)
def test_every_kind_reaches_every_parameter(attention):
    model = small(attention=attention, attend="both", channels=1, width=16)
    graphdef, params = nnx.split(model)
    # Where a gate's weight starts at 0, what it multiplies has no gradient yet: move off the start.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    moved = [leaf + rng.normal(0, 0.02, leaf.shape).astype(np.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, moved)
    x = picture(2, 16, 16, 1)

    @jax.jit
    def gradients(params):
        return jax.grad(lambda p: jnp.mean((nnx.merge(graphdef, p)(x) - 0.5) ** 2))(params)

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all(), name
        assert np.any(gradient != 0), name


def test_a_fresh_network_nearly_returns_its_input():
    x = picture(1, 32, 32, 3)
    np.testing.assert_allclose(run(small(), x), x, atol=0.1)


def test_noise_level():
    model = small(noise_level=True)
    x = picture(2, 8, 8, 3)
    one, each = run(model, x, 0.1), run(model, x, jnp.array([0.1, 0.1]))
    np.testing.assert_allclose(one, each, rtol=1e-6)
    assert not np.allclose(one, run(model, x, 0.5))
    with pytest.raises(ValueError, match="needs the noise level"):
        model(x)
    with pytest.raises(ValueError, match="is blind"):
        small()(x, 0.1)


def test_bfloat16_inside_float32_outside():
    model = small(dtype=jnp.bfloat16)
    x = picture(1, 16, 16, 3)
    y = run(model, x)
    assert y.dtype == x.dtype
    assert {p.dtype for p in jax.tree.leaves(nnx.state(model, nnx.Param))} == {jnp.dtype("float32")}
    # The noise has an 8-bit mantissa; the picture itself is not rounded.
    np.testing.assert_allclose(y, run(small(), x), atol=5e-3)


def test_blocks_of_each_level():
    model = small(blocks=(3, 2, 1))
    counts = [len(stack.layers) for stack in (*model.encoder, model.bottom, *model.decoder)]
    assert counts == [3, 2, 1, 3, 2]
    assert model.receptive_radius == 2 + 3 + 2 * (2 * 3 + 2 * 2 * 2) + 4 * 2
    assert model.features(picture(1, 8, 8, 3)).keys() == {
        *(f"{side}.0.{i}" for side in ("encoder", "decoder") for i in range(3)),
        *(f"{side}.1.{i}" for side in ("encoder", "decoder") for i in range(2)),
        "bottom.0",
    }


def test_features_of_each_level():
    model = small(width=(12, 8, 20))
    maps = model.features(picture(1, 8, 8, 3))
    found = {place.rpartition(".")[0]: y.shape[-1] for place, y in maps.items()}
    assert found == {
        "encoder.0": 12,
        "encoder.1": 8,
        "bottom": 20,
        "decoder.1": 8,
        "decoder.0": 12,
    }
    sizes = [
        [leaf.shape for leaf in jax.tree.leaves(nnx.state(small(width=width), nnx.Param))]
        for width in (8, (8, 16, 32))
    ]
    assert sizes[0] == sizes[1]


def test_errors():
    with refuses("'none', 'encoder', 'decoder' or 'both'"):
        small(attend="up")
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\)"):
        small()(picture(1, 8, 8, 1))
    with pytest.raises(ValueError, match="width must be at least 1"):
        small(width=0)
    with pytest.raises(ValueError, match=r"one for each of the 3 levels; got \[2, 1\]"):
        small(blocks=(2, 1))
    with pytest.raises(ValueError, match=r"width .* one for each of the 3 levels; got \[8, 16\]"):
        small(width=(8, 16))
    with pytest.raises(ValueError, match="width must be at least 1"):
        small(width=(8, 0, 8))
    with pytest.raises(ValueError, match="blocks must be at least 1"):
        small(blocks=(2, 0, 1))
    with pytest.raises(ValueError, match="Did you mean 'shuffle'"):
        small(attention="shufle")
    with pytest.raises(ValueError, match="Did you mean 'attention_unet'"):
        sa_flax.create_model("atention_unet", rngs=nnx.Rngs(0))


def _losses(attention: str, seed: int, steps: int = 60) -> np.ndarray:
    """Training losses of a small network on random textures with noise."""
    model = sa_flax.create_model(
        "attention_unet",
        channels=1,
        width=8,
        levels=3,
        attend="both",
        attention=attention,
        rngs=nnx.Rngs(jax.random.key(seed, impl="rbg")),
    )
    graphdef, params = nnx.split(model)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, opt_state, key):
        waves = jax.random.uniform(key, (8, 1, 1, 1), minval=0.1, maxval=1)
        clean = 0.5 + 0.4 * jnp.sin(waves * jnp.arange(24.0).reshape(1, 1, 24, 1))
        clean = jnp.broadcast_to(clean, (8, 24, 24, 1))
        noisy = clean + 0.1 * jax.random.normal(key, clean.shape)
        loss, grads = jax.value_and_grad(
            lambda p: jnp.mean((nnx.merge(graphdef, p)(noisy) - clean) ** 2)
        )(params)
        with jax.numpy_dtype_promotion("standard"):  # Optax takes powers of whole numbers
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for i in range(steps):
        params, opt_state, loss = step(params, opt_state, jax.random.key(1000 * seed + i))
        losses.append(float(loss))
    return np.array(losses)


@pytest.mark.slow
def test_the_gates_start_does_not_unsettle_training():
    """A fresh shuffle gate multiplies by 0.731; inside the residual branch that must not matter."""
    with_gate, without = _losses("shuffle", 0), _losses("none", 0)
    assert with_gate[-10:].mean() < 0.5 * with_gate[:3].mean(), "does not learn"
    assert with_gate.max() < 2 * with_gate[0], "the loss leaps"
    assert with_gate[-10:].mean() < 1.25 * without[-10:].mean(), "learns worse than without"


def test_remat_keeps_less_and_gives_the_same():
    x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 1))

    def of(remat: bool):
        model = small(channels=1, levels=2, remat=remat)
        graphdef, params = nnx.split(model)
        out, backward = jax.vjp(lambda p: nnx.merge(graphdef, p)(x), params)
        kept = sum(leaf.nbytes for leaf in jax.tree.leaves(backward))
        return kept, out, *backward(jnp.ones_like(out))

    kept, *plain = of(False)
    kept_with_remat, *remat = of(True)
    assert kept_with_remat < 0.8 * kept
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, remat)


def test_a_network_with_remat_can_be_closed_over():
    """And is as it was after that, whatever transformed it."""
    model = small(channels=1, levels=2, remat=True)
    plain = small(channels=1, levels=2)
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 1))

    def slope(network):
        return jax.grad(lambda x: jnp.sum(jnp.square(network(x))))(x)

    for transformed in (lambda f: jax.jit(f)(x), slope, lambda f: nnx.jit(slope)(f)):
        np.testing.assert_allclose(transformed(model), transformed(plain), atol=1e-5)
    np.testing.assert_allclose(model(x), plain(x), atol=1e-6)
    batches = jax.vmap(model)(jnp.stack([x, x]))
    np.testing.assert_allclose(batches[1], plain(x), atol=1e-6)


class Counting(nnx.Module):
    """An attention that remembers how often it was called."""

    def __init__(self, features, *, rngs, param_dtype):
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1
        return x


def test_remat_keeps_what_an_attention_of_ones_own_remembers():
    model = small(channels=1, levels=2, remat=True, attention=Counting)
    x = jnp.ones((1, 8, 8, 1))
    nnx.jit(lambda model, x: model(x))(model, x)
    nnx.grad(lambda model: jnp.sum(model(x)))(model)
    assert int(model.decoder[0].layers[0].attention.calls[...]) == 2


@pytest.mark.parametrize(("width", "blocks"), [(np.int64(4), np.int32(1)), (4, [np.int64(1)] * 2)])
def test_numpy_integers_are_sizes(width, blocks):
    with unchecked():
        model = sa_flax.AttentionUNet(
            channels=np.int64(1), levels=2, width=width, blocks=blocks, rngs=nnx.Rngs(0)
        )
    assert sa_flax.Denoiser(model)(np.zeros((8, 8), np.uint8)).shape == (8, 8)


def test_sizes_that_are_no_whole_numbers():
    with refuses(r"width must be a whole number; got 4.0"):
        sa_flax.AttentionUNet(channels=1, levels=1, width=[4.0], rngs=nnx.Rngs(0))
    with refuses(r"blocks must be one number, or one for each of the 2 levels"):
        sa_flax.AttentionUNet(channels=1, levels=2, blocks=1.5, rngs=nnx.Rngs(0))


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
def test_explicit_mesh_axes():
    """Batch and height split over explicit axes, forward and backward."""
    kinds = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 4), ("b", "h"), axis_types=kinds)
    graphdef, params = nnx.split(small(channels=1, width=4, levels=2, noise_level=True))

    @jax.jit
    def run(params, x):
        out, backward = jax.vjp(lambda p, x: nnx.merge(graphdef, p)(x, 0.1), params, x)
        return out, *backward(x)

    x = picture(2, 8, 6, 1)
    expected = run(params, x)
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("b", "h"))
    with jax.set_mesh(mesh):
        got = run(params, jax.device_put(x, where))
    assert got[0].sharding.is_equivalent_to(where, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)
