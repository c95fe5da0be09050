"""Which attention stands where in the U-Net, what it shows of itself, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sa_flax
from sa_flax.models.dncnn import DnCNN
from tests.annotations import refuses


def abstract(**options) -> sa_flax.AttentionUNet:
    """A network without arrays: what stands where can be seen without them."""
    options = {"width": 8, "levels": 3, "attend": "both", **options}
    return nnx.eval_shape(lambda: sa_flax.AttentionUNet(rngs=nnx.Rngs(0), **options))


def small(**options) -> sa_flax.AttentionUNet:
    rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))  # quick to compile
    return sa_flax.AttentionUNet(**{"width": 4, "levels": 2, "channels": 1, **options}, rngs=rngs)


def standing(model: sa_flax.AttentionUNet) -> dict[str, str]:
    """Place -> class of the attention there, for those that have one."""
    places = {f"encoder.{i}": stack for i, stack in enumerate(model.encoder)}
    places |= {"bottom": model.bottom}
    places |= {f"decoder.{i}": stack for i, stack in enumerate(model.decoder)}
    kinds = {place: type(stack.layers[0].attention).__name__ for place, stack in places.items()}
    return {place: kind for place, kind in kinds.items() if kind != "function"}


@pytest.mark.parametrize(
    ("attention", "attend", "expected"),
    [
        (
            {0: "eca", 2: "danet"},
            "both",
            {"encoder.0": "ECA", "decoder.0": "ECA", "bottom": "DANet"},
        ),
        ({"0": "eca", 1: "sge"}, "decoder", {"decoder.0": "ECA", "decoder.1": "SGE"}),
        (
            {1: "sge", "encoder.1": "cbam", "bottom": "danet"},
            "both",
            {"encoder.1": "CBAM", "decoder.1": "SGE", "bottom": "DANet"},
        ),
        ({0: "eca", "decoder.0": "none"}, "both", {"encoder.0": "ECA"}),
        ({}, "both", {}),
    ],
)
def test_kinds_by_level_and_place(attention, attend, expected):
    assert standing(abstract(attention=attention, attend=attend)) == expected


def test_options_by_the_same_keys():
    model = abstract(
        attention={"decoder.0": "shuffle", "decoder.1": "shuffle", "bottom": "danet"},
        attention_options={"decoder.0": {"groups": 2}, "bottom": {"reduction": 4}},
    )
    assert model.decoder[0].layers[0].attention.groups == 2
    assert model.decoder[1].layers[0].attention.groups == 8
    assert model.bottom.layers[0].attention.query_kernel.shape == (32, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": {3: "eca"}}, r"names 3, .*no place .* 3 levels.*Levels: 0 to 2"),
        ({"attention": {"encoder.2": "eca"}}, r"'encoder\.2'.*places: encoder\.0, encoder\.1, bot"),
        ({"attention": {"botom": "eca"}}, r"Did you mean 'bottom'"),
        ({"attention": {True: "eca"}}, r"names True"),
        ({"attention": {0: "se"}}, r"Did you mean 'squeeze_excite'"),
        ({"attention": {0: 3}}, r"a name .* or a class or function"),
        (
            {"attention": {"bottom": "eca"}, "attend": "decoder"},
            r"names 'bottom'.*attend='decoder' puts attention at decoder\.1, decoder\.0 only.*both",
        ),
        ({"attention": {2: "eca"}, "attend": "encoder"}, r"names 2 \(bottom\), but attend='enc"),
        (
            {"attention": {0: "eca"}, "attention_options": {"groups": 2}},
            r"names 'groups'",
        ),
        (
            {"attention": {0: "eca"}, "attention_options": {1: {"kernel_size": 3}}},
            r"must map the keys of attention \(0\).*got 1",
        ),
        ({"attention": "none", "attention_options": {"groups": 2}}, r"'none' .* no options"),
        ({"attention": "sge", "attention_options": {"window_size": 2}}, r"no option 'window_size'"),
        ({"attention": "shufle", "attend": "none"}, r"Did you mean 'shuffle'"),
    ],
)
def test_what_has_no_place_is_explained(options, message):
    with refuses(message):
        abstract(**options)


class Doubled(nnx.Module):
    """Somebody's own attention."""

    def __init__(self, features, *, rngs, param_dtype, start=2.0):
        self.factor = nnx.Param(jnp.full((features,), start, param_dtype))

    def __call__(self, x):
        return x * self.factor[...]


@pytest.mark.usefixtures("jax_defaults")  # which it may rely on
def test_an_attention_of_ones_own():
    model = small(attention=Doubled, attention_options={"start": 3.0}, param_dtype=jnp.float32)
    layer = model.decoder[0].layers[0].attention
    assert isinstance(layer, Doubled)
    np.testing.assert_array_equal(layer.factor[...], 3)
    x = jnp.ones((1, 4, 6, 1))
    assert model(x).shape == x.shape
    assert model.attention_maps(x) == {}  # it has none to show
    mixed = abstract(attention={0: Doubled, "bottom": "eca"})
    assert standing(mixed) == {"encoder.0": "Doubled", "decoder.0": "Doubled", "bottom": "ECA"}


def test_features_and_maps_are_those_of_the_forward_pass():
    model = small(attention="cbam", attend="both", blocks=2)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 5, 8, 1)), jnp.float32)
    features, maps = jax.jit(lambda x: (model.features(x), model.attention_maps(x)))(x)
    places = ["encoder.0.0", "encoder.0.1", "bottom.0", "bottom.1", "decoder.0.0", "decoder.0.1"]
    assert sorted(features) == sorted(maps) == sorted(places)
    assert features["encoder.0.0"].shape == (1, 6, 8, 4)  # five rows are padded to six
    assert features["bottom.1"].shape == (1, 3, 4, 8)
    # The noise is the last convolution of the last features.
    noise = model.tail(features["decoder.0.1"])[:, :5]
    np.testing.assert_allclose(x - noise, jax.jit(model.__call__)(x), atol=1e-6)
    # And a block adds what its attention lets through.
    block = model.bottom.layers[1]
    before = block.conv2(nnx.relu(block.conv1(features["bottom.0"])))
    gated = before * maps["bottom.1"]["channel"] * maps["bottom.1"]["spatial"]
    np.testing.assert_allclose(features["bottom.0"] + gated, features["bottom.1"], atol=1e-6)


def test_features_of_a_network_that_knows_the_noise_level():
    model = small(noise_level=True, attention="eca")
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    assert len(jax.eval_shape(lambda x: model.features(x, 0.1), x)) == 3
    assert list(jax.eval_shape(lambda x: model.attention_maps(x, 0.1), x)) == ["decoder.0.0"]


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("make", [small, lambda: DnCNN(depth=2, width=2, rngs=nnx.Rngs(0))])
def test_pictures_of_whole_numbers_are_refused(make, dtype):
    with refuses(rf"the picture must be .*got {dtype}.* / 255"):
        make()(jnp.zeros((1, 4, 4, 1), dtype))


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "cbam", "attention_options": {"window": (8, 8)}},
        {
            "attention": {0: "eca", "bottom": "cbam"},
            "attention_options": {"bottom": {"window": (4, 4)}},
            "attend": "both",
        },
    ],
)
def test_options_survive_the_way_through_json(options, tmp_path):
    """JSON has neither tuples nor numbers for keys."""
    model = small(**options)
    config = {"model": "attention_unet", "options": {"width": 4, "levels": 2, "channels": 1}}
    config["options"] |= options
    sa_flax.save_pretrained(model, tmp_path, config=config)
    again, _ = sa_flax.from_pretrained(tmp_path)
    places = [stack.layers[0].attention for stack in (model.bottom, model.decoder[0])]
    back = [stack.layers[0].attention for stack in (again.bottom, again.decoder[0])]
    assert [getattr(layer, "window", None) for layer in places] == [
        getattr(layer, "window", None) for layer in back
    ]
    assert any(getattr(layer, "window", None) for layer in back)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 6, 6, 1)), jnp.float32)
    np.testing.assert_array_equal(again(x), model(x))


class TestWithWindow:
    def test_shares_the_weights_and_leaves_the_network_alone(self):
        model = small(width=8, attention="shuffle", attend="both")
        local = model.with_window((5, 4))
        assert model.bottom.layers[0].attention.window is None
        # Five rows are no whole number at the bottom: rounded up to six, then halved.
        assert local.encoder[0].layers[0].attention.window == (6, 4)
        assert local.decoder[0].layers[0].attention.window == (6, 4)
        assert local.bottom.layers[0].attention.window == (3, 2)
        assert local.head.kernel is model.head.kernel
        again = local.with_window(None)
        assert again.bottom.layers[0].attention.window is None

    def test_a_covering_window_changes_nothing_and_a_small_one_does(self):
        # A fresh shuffle attention multiplies by a constant: move it away from its start.
        model = small(width=8, attention="shuffle", attend="both")
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            if "attention" in path:
                variable[...] += 0.5
        x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 11, 9, 1)), jnp.float32)
        whole = jax.jit(model.__call__)(x)
        # The picture is padded to 12 x 10 inside; that is covered too.
        covering, local = model.with_window((11, 9)), model.with_window((4, 4))
        chex.assert_trees_all_equal(jax.jit(covering.__call__)(x), whole)
        assert np.abs(jax.jit(local.__call__)(x) - whole).max() > 1e-4

    @pytest.mark.parametrize("kind", ["non_local", "none"])
    def test_attentions_that_pool_nothing_are_left_alone(self, kind):
        model = small(width=8, attention=kind)
        x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 6, 6, 1)), jnp.float32)
        local = jax.jit(model.with_window((2, 2)).__call__)
        chex.assert_trees_all_equal(local(x), jax.jit(model.__call__)(x))

    def test_a_wrong_window_is_explained(self):
        with refuses(r"window must be None.*got 64"):
            small(width=8).with_window(64)
