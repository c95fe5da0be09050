"""What every attention must do, whatever its kind; the cases are the table of `make_attention`."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file

import sa_flax
from sa_flax.modules.layer import set_window
from sa_flax.porting import torch_unet as twins
from tests.annotations import refuses

KINDS = sa_flax.list_attentions()
FEATURES = 32


@functools.cache
def layer_of(kind: str):
    """A layer away from its start, where zeros would hide mistakes: normal noise on everything."""
    layer = sa_flax.make_attention(kind, FEATURES, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(layer)):
        noise = 0.3 * rng.normal(size=variable.shape).astype(np.float32)
        # Hidden units that are all dead (there are two to four) would hide as much.
        variable[...] += noise + (path[-1] == "reduce_bias")
    return layer


def map_of(*shape: int, seed: int = 0) -> jax.Array:
    """A feature map whose channels differ in mean and spread, as real ones do."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 1.5, size=shape[-1])
    return jnp.asarray(spread * rng.normal(size=shape) + rng.normal(size=shape[-1]), jnp.float32)


def pure(layer):
    """The layer as a function of its parameters (by name) and the map; and the parameters."""
    graphdef, state = nnx.split(layer)
    names = {name: variable[...] for name, variable in state.items()}
    assert list(state) == sorted(names)  # so that leaves and sorted names go together

    def apply(params, x):
        filled = [params[name] for name in sorted(params)]
        return nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), filled))(x)

    return apply, names


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_keeps_shape_and_dtype_with_statistics_in_float32(self, kind, dtype):
        apply, params = pure(layer_of(kind))
        apply = jax.jit(apply)
        x = map_of(2, 6, 5, FEATURES).astype(dtype)
        y, exact = apply(params, x), apply(params, x.astype(jnp.float32))
        chex.assert_shape(y, x.shape)
        assert y.dtype == dtype
        assert exact.dtype == jnp.float32
        # Everything inside is float32, so only the result is rounded: by half a unit in the last
        # place, or a whole one where float32 itself, compiled anew, falls the other way.
        unit = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(y.astype(np.float32), exact, rtol=unit, atol=1e-6)

    def test_jit_and_vmap_change_nothing(self, kind):
        layer = layer_of(kind)
        x = map_of(2, 6, 5, FEATURES)
        apply, params = pure(layer)
        chex.clear_trace_counter()
        counted = jax.jit(chex.assert_max_traces(apply, n=1))
        y = counted(params, x)
        chex.assert_trees_all_equal(counted(params, x + 0), y)
        # Float32 roundings in another order: a few units of the largest values, which are near 10.
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
        close(layer(x), y)
        close(jax.jit(jax.vmap(layer))(x), y)
        close(jax.jit(apply)(params, x[0]), y[0])
        close(jax.jit(apply)(params, x[None]), y[None])

    def test_every_parameter_has_a_gradient(self, kind):
        apply, params = pure(layer_of(kind))
        x, probe = map_of(2, 6, 5, FEATURES), map_of(2, 6, 5, FEATURES, seed=1)
        gradients = jax.jit(jax.grad(lambda params: jnp.vdot(probe, apply(params, x))))(params)
        assert gradients.keys() == params.keys()
        for name, gradient in gradients.items():
            assert np.isfinite(gradient).all(), name
            assert np.any(gradient != 0), f"{kind}: no gradient reaches {name}"

    @pytest.mark.parametrize("size", [(1, 1), (7, 3)])
    def test_any_size_of_map_and_constant_maps(self, kind, size):
        apply, params = pure(layer_of(kind))

        @jax.jit
        def with_gradients(params, x):
            def loss(params, x):
                y = apply(params, x)
                return jnp.sum(jnp.square(y)), y

            return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

        x = map_of(1, *size, FEATURES)
        for pictured in (x, jnp.full_like(x, 0.5), jnp.zeros_like(x)):
            (_, y), gradients = with_gradients(params, pictured)
            chex.assert_equal_shape([x, y])
            chex.assert_tree_all_finite((y, gradients))

    def test_circular_shifts_pass_through(self, kind):
        apply, params = pure(layer_of(kind))
        apply = jax.jit(apply)
        x = map_of(1, 6, 5, FEATURES)
        moved = apply(params, jnp.roll(x, (2, 3), axis=(1, 2)))
        still = jnp.roll(apply(params, x), (2, 3), axis=(1, 2))
        if kind in ("cbam", "dual"):  # their convolution sees zeros outside the map
            assert np.abs(moved - still).max() > 1e-3
            apart = np.abs(apply(params, x[:, ::-1, ::-1]) - apply(params, x)[:, ::-1, ::-1]).max()
            assert apart > 1e-3
        else:
            np.testing.assert_allclose(moved, still, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("features", [2, 6, 24, 32, 48, 96])
    def test_fits_any_even_number_of_features_without_options(self, kind, features):
        def build_and_apply(x):
            return sa_flax.make_attention(kind, features, rngs=nnx.Rngs(0))(x)

        x = jax.ShapeDtypeStruct((2, 4, 3, features), jnp.float32)
        assert jax.eval_shape(build_and_apply, x).shape == x.shape

    def test_takes_the_dtype_of_its_parameters(self, kind):
        def build(dtype):
            return sa_flax.make_attention(kind, 16, param_dtype=dtype, rngs=nnx.Rngs(0))

        narrow, wide = (
            nnx.eval_shape(functools.partial(build, d)) for d in ("bfloat16", "float32")
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(narrow))} == {
            jnp.dtype(jnp.bfloat16)
        }
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(wide))} == {jnp.dtype(jnp.float32)}
        x = jax.ShapeDtypeStruct((1, 3, 3, 16), jnp.float32)
        assert jax.eval_shape(lambda x: build(jnp.bfloat16)(x), x).dtype == jnp.float32

    def test_a_map_of_another_width_is_refused(self, kind):
        with refuses(r"channels"):
            layer_of(kind)(map_of(1, 4, 4, FEATURES + 2))


# The twin of each kind, and where each parameter is in it; a dense kernel stands transposed there.
def _dense(weight):
    return weight.T


def _conv1x1(weight):
    return weight.T[:, :, None, None]


def _spatial(kernel):
    return kernel.transpose(2, 0, 1)[None]


def _vector(vector):
    return vector.reshape(1, -1, 1, 1)


def _one(scalar):
    return scalar.reshape(1)


def _same(array):
    return array


def _gate_names(convert):
    return {
        "reduce_kernel": ("reduce.weight", convert),
        "reduce_bias": ("reduce.bias", _same),
        "expand_kernel": ("expand.weight", convert),
        "expand_bias": ("expand.bias", _same),
    }


_SPATIAL = {
    "spatial_kernel": ("spatial.weight", _spatial),
    "spatial_bias": ("spatial.bias", _one),
}


def _convolutions(*names):
    kernels = {f"{name}_kernel": (f"{name}.weight", _conv1x1) for name in names}
    return kernels | {f"{name}_bias": (f"{name}.bias", _same) for name in names}


TWINS = {
    "shuffle": (
        lambda: twins.ShuffleAttention(FEATURES, 8),
        {
            "channel_weight": ("cweight", _vector),
            "channel_bias": ("cbias", _vector),
            "spatial_weight": ("sweight", _vector),
            "spatial_bias": ("sbias", _vector),
            "norm_scale": ("gn.weight", _same),
            "norm_bias": ("gn.bias", _same),
        },
    ),
    "squeeze_excite": (lambda: twins.SqueezeExcite(FEATURES, 4), _gate_names(_dense)),
    "eca": (lambda: twins.ECA(FEATURES, 3), {"kernel": ("conv.weight", lambda k: k[None, None])}),
    "cbam": (lambda: twins.CBAM(FEATURES, 4), _gate_names(_dense) | _SPATIAL),
    "sge": (lambda: twins.SGE(FEATURES, 8), {"weight": ("weight", _same), "bias": ("bias", _same)}),
    "dual": (
        lambda: twins.DualAttention(FEATURES, 4),
        _gate_names(_conv1x1) | _SPATIAL | _convolutions("merge"),
    ),
    "non_local": (
        lambda: twins.NonLocal(FEATURES, 16),
        _convolutions("query", "key", "value", "out"),
    ),
    "self_attention": (
        lambda: twins.SelfAttention(FEATURES, 8),
        _convolutions("query", "key", "value", "out") | {"gamma": ("gamma", _same)},
    ),
    "danet": (
        lambda: twins.DANet(FEATURES, 8),
        _convolutions("query", "key", "value")
        | {
            "position_scale": ("position_scale", _same),
            "channel_scale": ("channel_scale", _same),
        },
    ),
}


def both_ways(layer, twin, names, dtype):
    """Output and gradients of layer and twin, in the twin's layout: two dicts of float64 arrays."""
    apply, params = pure(layer)
    x = np.asarray(map_of(2, 7, 5, FEATURES), dtype)
    probe = np.asarray(map_of(2, 7, 5, FEATURES, seed=1), dtype)
    with jax.enable_x64(dtype == np.float64):
        params = {name: jnp.asarray(value, dtype) for name, value in params.items()}
        y, pull_back = jax.vjp(jax.jit(apply), params, jnp.asarray(x))
        gradients, of_map = pull_back(jnp.asarray(probe))
        assert y.dtype == dtype
        ours = {"output": np.asarray(y).transpose(0, 3, 1, 2)}
        ours["map"] = np.asarray(of_map).transpose(0, 3, 1, 2)
        values = {names[name][0]: names[name][1](np.asarray(p)) for name, p in params.items()}
        for name, gradient in gradients.items():
            there, convert = names[name]
            ours[there] = convert(np.asarray(gradient))

    twin = twin.to(torch.float64 if dtype == np.float64 else torch.float32)
    twin.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    there = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    out = twin(there)
    (out * torch.tensor(probe.transpose(0, 3, 1, 2))).sum().backward()
    theirs = {"output": out.detach().numpy(), "map": there.grad.numpy()}
    theirs |= {name: parameter.grad.numpy() for name, parameter in twin.named_parameters()}
    return ours, theirs


# Relative to the largest entry of each array. The roundings are those of scores near 30 in a
# softmax and of sums of 70 positions: a few hundred units of 2^-53 and 2^-24.
@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-13), (np.float32, 5e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_pytorch_in_output_and_gradients(kind, dtype, bound):
    twin, names = TWINS[kind]
    names = {name: there for name, there in names.items() if hasattr(layer_of(kind), name)}
    ours, theirs = both_ways(layer_of(kind), twin(), names, dtype)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        scale = np.abs(theirs[name]).max()
        assert scale > 0, name
        np.testing.assert_allclose(array / scale, theirs[name] / scale, atol=bound, err_msg=name)


POOLED = [kind for kind in KINDS if kind not in ("non_local", "self_attention", "danet")]


def windowed(kind: str, window):
    layer = nnx.clone(layer_of(kind))
    set_window(layer, window)
    return layer


@pytest.mark.parametrize("kind", POOLED)
def test_a_window_that_covers_the_map_changes_nothing(kind):
    x = map_of(2, 6, 5, FEATURES)
    whole = jax.jit(layer_of(kind).__call__)(x)
    for window in ((6, 5), (64, 64)):
        chex.assert_trees_all_equal(jax.jit(windowed(kind, window).__call__)(x), whole)


@pytest.mark.parametrize("kind", ["shuffle", "squeeze_excite", "eca"])
def test_a_window_shows_every_pixel_what_a_crop_would(kind):
    layer = jax.jit(layer_of(kind).__call__)
    x = map_of(6, 8, FEATURES)
    y = jax.jit(windowed(kind, (3, 5)).__call__)(x)
    assert np.abs(y - layer(x)).max() > 1e-3
    for i, j in [(0, 0), (3, 4), (5, 7), (2, 0)]:
        top, left = min(max(i - 1, 0), 3), min(max(j - 2, 0), 3)
        crop = layer(x[top : top + 3, left : left + 5])
        np.testing.assert_allclose(y[i, j], crop[i - top, j - left], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", POOLED)
def test_windows_keep_the_contract(kind):
    apply, params = pure(windowed(kind, (3, 4)))
    x = map_of(2, 6, 5, FEATURES)
    y = jax.jit(apply)(params, x)
    assert np.abs(y - jax.jit(layer_of(kind).__call__)(x)).max() > 1e-3
    by_picture = jax.jit(jax.vmap(apply, in_axes=(None, 0)))(params, x)
    np.testing.assert_allclose(by_picture, y, rtol=1e-5, atol=1e-5)
    assert jax.eval_shape(apply, params, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    gradients = jax.jit(jax.grad(lambda params: jnp.vdot(x, apply(params, x))))(params)
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        assert np.any(gradient != 0), name


def unet(kind: str, attend: str, seed: int = 0):
    return sa_flax.create_model(
        "attention_unet",
        channels=1,
        width=8,
        levels=2,
        attention=kind,
        attend=attend,
        rngs=nnx.Rngs(seed),
    )


QUICK = ("shuffle", "squeeze_excite", "dual", "non_local", "danet")
# Two sides by themselves cost as much again as both together, and can fail in no other way.
PLACES = [
    pytest.param(kind, at, marks=[] if at == "both" and kind in QUICK else pytest.mark.slow)
    for kind, at in itertools.product(KINDS, ("both", "encoder", "decoder"))
]


@pytest.mark.parametrize(("kind", "attend"), PLACES)
def test_fits_every_position_trains_saves_and_loads(kind, attend, tmp_path):
    graphdef, state = nnx.split(unet(kind, attend))
    rng = np.random.default_rng(0)
    clean = jnp.asarray(rng.uniform(size=(2, 8, 8, 1)), jnp.float32)
    noisy = clean + 0.1 * jnp.asarray(rng.normal(size=clean.shape), jnp.float32)

    @jax.jit
    def step(state):
        def loss(state):
            return jnp.mean(jnp.square(nnx.merge(graphdef, state)(noisy) - clean))

        value, gradients = jax.value_and_grad(loss)(state)
        return jax.tree.map(lambda p, g: p - 0.01 * g, state, gradients), value

    state, before = step(state)
    state, after = step(state)
    assert after < before

    trained = {"/".join(map(str, path)): v[...] for path, v in nnx.to_flat_state(state)}
    save_file({name: np.asarray(v) for name, v in trained.items()}, tmp_path / "m.safetensors")
    loaded = load_file(tmp_path / "m.safetensors")
    assert any(".attention." in name.replace("/", ".") for name in loaded)
    fresh = unet(kind, attend, seed=1)
    flat = nnx.to_flat_state(nnx.state(fresh))
    assert {"/".join(map(str, path)) for path, _ in flat} == loaded.keys()
    for path, variable in flat:
        variable[...] = jnp.asarray(loaded["/".join(map(str, path))])
    # Once more, from the same state on both sides: training goes on where it was.
    continued, there = step(nnx.state(fresh))
    expected, here = step(state)
    assert there == here
    chex.assert_trees_all_equal(continued, expected)
