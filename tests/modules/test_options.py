"""What all attention layers take besides a map: names, dtypes, initialisers; what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax import functional as F
from sa_flax import modules
from tests.annotations import refuses

KINDS = sa_flax.list_attentions()
CLASSES = {
    "shuffle": modules.ShuffleAttention,
    "squeeze_excite": modules.SqueezeExcite,
    "eca": modules.ECA,
    "cbam": modules.CBAM,
    "sge": modules.SGE,
    "dual": modules.DualAttention,
    "non_local": modules.NonLocal,
    "self_attention": modules.SelfAttention,
    "danet": modules.DANet,
}
PARAMS = {
    "shuffle": F.ShuffleAttentionParams,
    "squeeze_excite": F.SqueezeExciteParams,
    "eca": F.ECAParams,
    "cbam": F.CBAMParams,
    "sge": F.SGEParams,
    "dual": F.DualAttentionParams,
    "non_local": F.NonLocalParams,
    "self_attention": F.SelfAttentionParams,
    "danet": F.DANetParams,
}


def rngs() -> nnx.Rngs:
    return nnx.Rngs(jax.random.key(0, impl="rbg"))  # quick to compile


@functools.cache
def layer_of(kind: str, features: int = 8):
    return sa_flax.make_attention(kind, features, rngs=rngs())


def shapes(params) -> dict[str, tuple[int, ...]]:
    return {name: a.shape for name, a in params._asdict().items() if a is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [6, 24, 64])
def test_a_class_a_name_and_a_pure_function_have_the_same_defaults(kind, features):
    """One layer, whichever way it is asked for: else weights of one do not fit the other."""

    def build(make):
        return shapes(jax.eval_shape(lambda: make().params()))

    by_class = build(lambda: CLASSES[kind](features, rngs=nnx.Rngs(0)))
    assert by_class == build(lambda: sa_flax.make_attention(kind, features, rngs=nnx.Rngs(0)))
    pure = jax.eval_shape(lambda: PARAMS[kind].init(jax.random.key(0), features))
    assert by_class == shapes(pure)


@pytest.mark.parametrize("kind", ["squeeze_excite", "cbam", "dual"])
def test_small_networks_keep_enough_hidden_units_alive(kind):
    assert CLASSES[kind](24, rngs=rngs()).reduce_bias.shape == (6,)


@pytest.mark.parametrize("kind", KINDS)
def test_pure_parameters_start_as_the_layers_do(kind):
    """Constants are equal; drawn kernels have the same spread, and none is drawn twice."""
    drawn = PARAMS[kind].init(jax.random.key(1, impl="rbg"), 64)._asdict()
    fresh = layer_of(kind, 64).params()._asdict()
    seen = []
    for name, array in drawn.items():
        if array is None:
            assert fresh[name] is None
        elif np.ptp(array) == 0:
            np.testing.assert_array_equal(array, fresh[name])
        elif array.size > 500:
            np.testing.assert_allclose(np.std(array), np.std(fresh[name]), rtol=0.15)
            seen.append(np.sort(np.ravel(array))[:3].tolist())
    assert len({tuple(values) for values in seen}) == len(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_dtype_is_that_of_the_result(kind):
    x = jax.ShapeDtypeStruct((1, 3, 4, 8), jnp.float32)
    layer = sa_flax.make_attention(kind, 8, dtype="bfloat16", rngs=rngs())
    assert jax.eval_shape(lambda x: layer(x), x).dtype == jnp.bfloat16
    assert {v.dtype for v in jax.tree.leaves(layer.params())} == {jnp.dtype("float32")}


def test_single_parameters_have_initialisers_of_their_own():
    layer = modules.ShuffleAttention(8, inits={"norm_bias": nnx.initializers.ones}, rngs=rngs())
    np.testing.assert_array_equal(layer.norm_bias[...], 1)
    np.testing.assert_array_equal(layer.channel_weight[...], 0)
    with refuses(r"'norm_bais'.*Did you mean 'norm_bias'.*Parameters: ch"):
        modules.ShuffleAttention(8, inits={"norm_bais": nnx.initializers.ones}, rngs=rngs())
    with refuses(r"norm_bias is drawn, so the layer needs rngs"):
        modules.ShuffleAttention(8, inits={"norm_bias": nnx.initializers.ones})


def test_partitioned_initialisers_name_the_axes():
    names = {
        "reduce_kernel": (None, "model"),
        "expand_kernel": ("model", None),
        "spatial_kernel": (None, None, None),
    }
    draw = nnx.initializers.lecun_normal()
    inits = {name: nnx.with_partitioning(draw, axes) for name, axes in names.items()}
    mesh = jax.make_mesh((1, 2), ("taps", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        layer = modules.CBAM(8, inits=inits, rngs=nnx.Rngs(0))
        # The one kernel of ECA has no axis for its output, which the initialiser names.
        by_tap = nnx.with_partitioning(draw, ("taps", None))
        eca = modules.ECA(8, kernel_init=by_tap, rngs=nnx.Rngs(0))
        assert layer(jnp.ones((2, 3, 4, 8))).shape == (2, 3, 4, 8)
    for name, axes in names.items():
        assert tuple(getattr(layer, name).get_metadata()["out_sharding"]) == axes
    assert layer.reduce_kernel[...].sharding.spec == jax.sharding.PartitionSpec(None, "model")
    assert eca.kernel.shape == (3,)
    assert tuple(eca.kernel.get_metadata()["out_sharding"]) == ("taps",)


class TestMaps:
    """What `attention_maps` shows is what the layer does: the output is made from it again."""

    def moved(self, kind: str):
        layer = nnx.clone(layer_of(kind))
        rng = np.random.default_rng(0)
        for _, variable in nnx.to_flat_state(nnx.state(layer)):
            variable[...] += jnp.asarray(0.5 * rng.normal(size=variable.shape), jnp.float32)
        x = jnp.asarray(rng.normal(size=(2, 3, 4, 8)), jnp.float32)
        return layer, x, layer.attention_maps(x), np.asarray(layer(x))

    def test_gates(self):
        for kind in ("squeeze_excite", "eca"):
            _, x, maps, y = self.moved(kind)
            np.testing.assert_allclose(x * maps["channel"], y, rtol=1e-5)
        _, x, maps, y = self.moved("cbam")
        np.testing.assert_allclose(x * maps["channel"] * maps["spatial"], y, rtol=1e-5)
        layer, x, maps, y = self.moved("sge")
        gate = jnp.repeat(maps["group"], 8 // layer.groups, axis=-1)
        np.testing.assert_allclose(x * gate, y, rtol=1e-5)

    def test_dual(self):
        layer, x, maps, y = self.moved("dual")
        both = jnp.concatenate([x * maps["spatial"], x * maps["channel"]], -1)
        out = both @ layer.merge_kernel[...] + layer.merge_bias[None, None, None]
        np.testing.assert_allclose(out, y, rtol=1e-4, atol=1e-5)

    def test_shuffle(self):
        layer, x, maps, y = self.moved("shuffle")
        first, second = F.group_split(x, layer.groups)
        merged = F.group_merge(first * maps["channel"], second * maps["spatial"], layer.groups)
        np.testing.assert_allclose(F.channel_shuffle(merged), y, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("affinity", F.affinity_params.AFFINITIES)
    def test_non_local(self, affinity):
        layer = sa_flax.NonLocal(8, affinity=affinity, subsample=2, rngs=rngs())
        rng = np.random.default_rng(0)
        layer.out_kernel[...] = jnp.asarray(rng.normal(size=(4, 8)), jnp.float32)
        x = jnp.asarray(rng.normal(size=(2, 4, 4, 8)), jnp.float32)
        values = x @ layer.value_kernel[...] + layer.value_bias[None, None, None]
        values = values.reshape(2, 2, 2, 2, 2, 4).max((2, 4)).reshape(2, 4, 4)
        (weights,) = layer.attention_maps(x).values()
        assert weights.shape == (2, 16, 4)
        out = x + ((weights @ values) @ layer.out_kernel[...]).reshape(x.shape)
        np.testing.assert_allclose(out, layer(x), rtol=1e-4, atol=1e-4)

    def test_affinities_that_sum_to_one(self):
        layer, x, maps, y = self.moved("self_attention")
        values = (x @ layer.value_kernel[...]).reshape(2, 12, 4)
        mixed = (maps["position"] @ values) @ layer.out_kernel[...]
        out = x + layer.gamma[...] * mixed.reshape(x.shape)
        np.testing.assert_allclose(out, y, rtol=1e-4, atol=1e-4)
        layer, x, maps, y = self.moved("danet")
        values = x @ layer.value_kernel[...] + layer.value_bias[None, None, None]
        values = values.reshape(2, 12, 8)
        by_place = (maps["position"] @ values).reshape(x.shape)
        by_channel = jnp.einsum("bcd,bhwd->bhwc", maps["channel"], x)
        out = x + layer.position_scale[...] * by_place + layer.channel_scale[...] * by_channel
        np.testing.assert_allclose(out, y, rtol=1e-4, atol=1e-4)
        for weights in maps.values():
            np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
class TestRefusals:
    @pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "complex64"])
    def test_what_is_no_floating_point_number(self, kind, dtype):
        x = jnp.zeros((1, 4, 4, 8), dtype)
        layer = layer_of(kind)
        with refuses(rf"floating-point numbers; got {dtype}.*x\.astype\(jnp\.float32\) / 255"):
            layer(x)
        with refuses(rf"floating-point numbers; got {dtype}"):
            layer.attention_maps(x)
        pure = getattr(F, layer.kind)
        with refuses(rf"{layer.kind}: the map must be .* got {dtype}"):
            pure(x, layer.params())

    def test_other_channels_and_channels_first(self, kind):
        with refuses(r"maps of 8 channels, .*got shape \(1, 4, 4, 16\)\. Build the layer for 16"):
            layer_of(kind)(jnp.zeros((1, 4, 4, 16)))
        with refuses(r"got shape \(1, 8, 4, 4\)\. That looks like channels first.*moveaxis"):
            layer_of(kind)(jnp.zeros((1, 8, 4, 4)))

    @pytest.mark.parametrize("shape", [(4, 8), (1, 0, 4, 8), (2, 4, 0, 8)])
    def test_what_is_no_map(self, kind, shape):
        with refuses(r"\(\.\.\., H, W, C\), with at least one row, column and channel; got shape"):
            layer_of(kind)(jnp.zeros(shape))

    @pytest.mark.parametrize("features", [0, -8, 8.0])
    def test_features_that_are_no_number_of_channels(self, kind, features):
        with refuses(rf"features must be an integer of at least 1; got {features}"):
            sa_flax.make_attention(kind, features, rngs=rngs())

    def test_options_of_another_kind(self, kind):
        with refuses(rf"attention '{kind}' has no option 'heads'\..*Options: .*param_dtype"):
            sa_flax.make_attention(kind, 8, heads=4, rngs=rngs())


class TestNames:
    @pytest.mark.parametrize(
        ("asked", "meant"),
        [
            ("se", "squeeze_excite"),
            ("SE-Net", "squeeze_excite"),
            ("squeeze-excite", "squeeze_excite"),
            ("SA", "shuffle"),
            ("shufle", "shuffle"),
            ("CBAM", "cbam"),
            ("ecanet", "eca"),
            ("nonlocal", "non_local"),
            ("self-attention", "self_attention"),
            ("sagan", "self_attention"),
            ("dual_attention", "dual"),
            ("None", "none"),
        ],
    )
    def test_the_likely_one_is_suggested(self, asked, meant):
        with refuses(rf"'{asked}'\. Did you mean '{meant}'\?"):
            sa_flax.make_attention(asked, 8, rngs=rngs())

    def test_what_is_like_nothing_has_no_suggestion(self):
        with refuses(r"unknown attention 'zzz'\. Known: none, cbam"):
            sa_flax.make_attention("zzz", 8, rngs=rngs())

    def test_none_has_no_options(self):
        x = jnp.ones((1, 2, 2, 8))
        layer = sa_flax.make_attention("none", 8, rngs=rngs(), param_dtype=jnp.float32)
        assert layer(x) is x
        with refuses(r"'none' .* no options; got groups, window"):
            sa_flax.make_attention("none", 8, rngs=rngs(), groups=4, window=(3, 3))

    def test_own_kinds_are_called_with_features_and_keywords(self):
        asked = {}

        def own(features, **keywords):
            asked.update(keywords, features=features)
            return lambda x: 2 * x

        x = jnp.ones((1, 2, 2, 8))
        layer = sa_flax.make_attention(own, 8, rngs=rngs(), param_dtype=jnp.bfloat16, slope=3)
        np.testing.assert_array_equal(layer(x), 2)
        assert asked.keys() == {"features", "rngs", "param_dtype", "slope"}
        with refuses(r"must be a name .* or a class or function"):
            sa_flax.make_attention(3, 8, rngs=rngs())
        with refuses(r"made None, which can't be called"):
            sa_flax.make_attention(lambda features, rngs: None, 8, rngs=rngs())


def test_a_window_may_be_a_list_as_json_has_it():
    layer = modules.SqueezeExcite(8, window=[3, 4], rngs=rngs())
    assert layer.window == (3, 4)
    modules.set_window(layer, [5, 6])
    assert layer.window == (5, 6)


class TestSizes:
    @pytest.mark.parametrize(
        ("kind", "options", "message"),
        [
            ("shuffle", {"groups": 5}, r"groups=5; groups that fit 32 channels: 1, 2, 4, 8, 16"),
            ("sge", {"groups": 5}, r"groups=5; groups that fit 32 channels: 1, 2, 4, 8, 16, 32"),
            ("eca", {"kernel_size": 4}, r"must be odd.*got 4"),
            ("cbam", {"kernel_size": 6}, r"must be odd.*got 6"),
            ("dual", {"kernel_size": 0}, r"must be odd.*got 0"),
            ("squeeze_excite", {"reduction": 0}, r"reduction .* at least 1; got 0"),
            ("self_attention", {"reduction": 2.5}, r"reduction .* integer .* got 2.5"),
            ("danet", {"reduction": -1}, r"reduction .* at least 1; got -1"),
            ("non_local", {"affinity": "cosine"}, r"affinity must be one of .*got 'cosine'"),
            ("non_local", {"bottleneck": 0}, r"bottleneck must be an integer of at least 1; got 0"),
            ("non_local", {"subsample": 0}, r"subsample must be an integer of at least 1; got 0"),
            ("cbam", {"window": (3, 0)}, r"window must be None.*got \(3, 0\)"),
            ("shuffle", {"window": 3}, r"window must be None.*got 3"),
        ],
    )
    def test_options_that_do_not_fit_are_explained(self, kind, options, message):
        with refuses(message):
            sa_flax.make_attention(kind, 32, rngs=rngs(), **options)

    def test_odd_features_have_no_shuffle_attention(self):
        with refuses("use an even number of channels"):
            sa_flax.make_attention("shuffle", 31, rngs=rngs())
