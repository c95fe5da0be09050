"""Single attention layers port as whole networks do, strict, there and back; new classifiers."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from sa_flax import porting
from sa_flax.models import SAResNet
from sa_flax.models.saved import model_leaves
from sa_flax.porting import torch_unet
from tests.torch_reference.sa_resnet import SAResNet as TorchSAResNet
from tests.torch_reference.weights import as_tensors, nchw, nhwc, randomise

KINDS = sa_flax.list_attentions()
FEATURES = 16
VARIANTS = [
    *((kind, {}, {}) for kind in KINDS),
    ("shuffle", {"groups": 2}, {"groups": 2}),
    ("cbam", {"reduction": 2, "kernel_size": 3}, {"reduction": 2, "kernel_size": 3}),
    ("non_local", {"affinity": "gaussian"}, {"affinity": "gaussian"}),
    ("non_local", {"affinity": "concatenation"}, {"affinity": "concatenation"}),
]


def _layer(kind, **options):
    """A layer without arrays: what is not loaded fails the test."""
    return nnx.eval_shape(
        lambda: sa_flax.make_attention(kind, FEATURES, rngs=nnx.Rngs(0), **options)
    )


def _twin(kind, **options):
    return randomise(torch_unet._ATTENTIONS[kind](FEATURES, **options)).eval()


@pytest.mark.parametrize(("kind", "options", "theirs"), VARIANTS)
def test_a_layer_does_what_its_twin_does_there_and_back(kind, options, theirs):
    twin, layer = _twin(kind, **theirs), _layer(kind, **options)
    porting.load_torch(layer, twin.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 5, 6, FEATURES)).astype(np.float32)
    with torch.no_grad():
        expected = nhwc(twin(nchw(x)))
    # Float32 through two matrix products at most, against values of about one.
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    written = porting.to_torch(layer)
    assert written.keys() == twin.state_dict().keys()
    for name, value in twin.state_dict().items():
        np.testing.assert_array_equal(written[name], value.numpy())
    _twin(kind, **theirs).load_state_dict(as_tensors(written), strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_fit_a_layer_is_listed(kind):
    state = dict(_twin(kind).state_dict())
    gone = next(iter(state))
    array = state.pop(gone)
    state["extra.weight"] = torch.ones(3)
    layer = _layer(kind)
    with pytest.raises(porting.PortingError, match=type(layer).__name__) as caught:
        porting.load_torch(layer, state)
    assert caught.value.unused == ["extra.weight (3,)"]
    assert len(caught.value.unfilled) == 1
    del state["extra.weight"]
    state[gone] = torch.ones(*array.shape, 2)
    with pytest.raises(porting.PortingError) as caught:
        porting.load_torch(layer, state)
    assert caught.value.misfits[0].startswith(f"{gone}: has shape {(*array.shape, 2)};")
    assert caught.value.count == 1


def test_a_layer_out_of_a_larger_network():
    """The names in front of a layer's are taken off, and the paper's names are the layer's."""
    twin = _twin("shuffle")
    named = {f"module.layer1.0.sa.{name}": value for name, value in twin.state_dict().items()}
    layer = _layer("shuffle")
    porting.load_torch(layer, {"state_dict": named})
    np.testing.assert_array_equal(
        layer.channel_weight[...], twin.state_dict()["cweight"].numpy().reshape(-1)
    )


def test_layers_of_others_are_refused():
    class Other(sa_flax.ECA):
        pass

    class Plain(nnx.Module):
        pass

    porting.to_torch(Other(FEATURES, rngs=nnx.Rngs(0)))  # has the rules of what it is made from
    with pytest.raises(ValueError, match=r"no porting rules for Plain.*ShuffleAttention"):
        porting.load_torch(Plain(), {"weight": np.ones(2, np.float32)})


NARROW = {"blocks": (1, 1, 1, 1), "width": 8, "groups": 4}


@pytest.fixture
def narrow(monkeypatch):
    """SA-ResNet-50's name for a network of four blocks; and the state of its twin."""
    from sa_flax.models import registry

    entry = ("sa_flax.models.sa_resnet", "SAResNet", {"blocks": NARROW["blocks"]})
    monkeypatch.setitem(registry._MODELS, "sa_resnet50", entry)
    return randomise(TorchSAResNet(**NARROW, num_classes=5)).state_dict()


def test_another_number_of_classes_makes_a_new_classifier(narrow):
    model = porting.from_torch("sa_resnet50", narrow, num_classes=10)
    logits = model(jnp.ones((1, 32, 32, 3)))
    assert logits.shape == (1, 10)
    written = porting.to_torch(model)
    for name, value in narrow.items():
        if not name.startswith("fc."):
            np.testing.assert_array_equal(written[name], value.numpy())
    assert np.std(written["fc.weight"]) > 0
    other = porting.from_torch("sa_resnet50", narrow, num_classes=10, rngs=nnx.Rngs(1))
    assert np.any(written["fc.weight"] != porting.to_torch(other)["fc.weight"])


def test_the_classifier_stays_where_it_fits_and_is_not_replaced_unasked(narrow):
    for options in ({}, {"num_classes": 5}):
        model = porting.from_torch("sa_resnet50", narrow, **options)
        np.testing.assert_array_equal(
            porting.to_torch(model)["fc.weight"], narrow["fc.weight"].numpy()
        )
    model = nnx.eval_shape(lambda: SAResNet(**NARROW, num_classes=10, rngs=nnx.Rngs(0)))
    with pytest.raises(porting.PortingError, match=r"fc\.weight: has shape \(5, 256\)"):
        porting.load_torch(model, narrow)


def test_features_get_a_classifier_when_it_is_asked_for(narrow):
    state = {name: value for name, value in narrow.items() if not name.startswith("fc.")}
    assert porting.from_torch("sa_resnet50", state).features_only
    model = porting.from_torch("sa_resnet50", state, num_classes=3)
    assert model(jnp.ones((1, 32, 32, 3))).shape == (1, 3)
    with pytest.raises(ValueError, match="num_classes must be at least 1; got 0"):
        porting.from_torch("sa_resnet50", state, num_classes=0)


def test_a_new_classifier_can_be_kept(narrow, tmp_path):
    from sa_flax.porting.convert import build_from_torch

    model, options = build_from_torch("sa_resnet50", narrow, {"num_classes": 3})
    config = {"model": "sa_resnet50", "options": options}
    sa_flax.save_pretrained(model, tmp_path, config=config)
    again, _ = sa_flax.from_pretrained(tmp_path)
    for path, leaf in model_leaves(again).items():
        np.testing.assert_array_equal(leaf[...], model_leaves(model)[path][...])
