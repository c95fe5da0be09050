"""load_torch, from_torch and to_torch: strict, whole or not at all, with errors that help."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from sa_flax import porting
from sa_flax.porting.convert import model_leaves
from tests.torch_reference.dncnn import DnCNN as TorchDnCNN
from tests.torch_reference.weights import nchw, nhwc, randomise


def _twin(**options):
    return randomise(TorchDnCNN(1, 4, 4, **options)).eval()


def _model(**options):
    return sa_flax.create_model("dncnn", depth=4, width=4, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("kind", ["file", "tensors", "numpy", "wrapped"])
def test_every_kind_of_source(kind, tmp_path):
    twin = _twin()
    state = twin.state_dict()
    if kind == "file":
        source = tmp_path / "net.pth.tar"
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, source)
    elif kind == "wrapped":
        source = {"params": state}
    else:
        source = state if kind == "tensors" else {k: v.numpy() for k, v in state.items()}
    model = _model()
    model.eval()
    porting.load_torch(model, source)
    x = np.random.default_rng(0).random((1, 6, 6, 1), np.float32)
    with torch.no_grad():
        expected = nhwc(twin(nchw(x)))
    np.testing.assert_allclose(np.asarray(model(jnp.asarray(x))), expected, rtol=1e-5, atol=1e-5)


def test_the_mode_of_the_model():
    model = _model()
    porting.load_torch(model, _twin().state_dict())
    assert not model.norms[0].use_running_average
    assert porting.from_torch("dncnn", _twin().state_dict()).norms[0].use_running_average


def test_loading_does_not_alias_the_source():
    state = {k: v.numpy().copy() for k, v in _twin().state_dict().items()}
    model = porting.from_torch("dncnn", state)
    before = {path: np.array(leaf[...]) for path, leaf in model_leaves(model).items()}
    for array in state.values():
        array[...] = 7
    for path, leaf in model_leaves(model).items():
        np.testing.assert_array_equal(leaf[...], before[path])


def test_a_failed_load_leaves_the_model_as_it_was():
    state = dict(_twin().state_dict())
    del state["dncnn.3.running_var"]
    model = _model()
    before = {path: np.array(leaf[...]) for path, leaf in model_leaves(model).items()}
    with pytest.raises(porting.PortingError, match=r"norms\.0\.var"):
        porting.load_torch(model, state)
    for path, leaf in model_leaves(model).items():
        np.testing.assert_array_equal(leaf[...], before[path])


def test_the_nearest_naming_scheme_is_reported():
    """One entry missing under KAIR's names is one problem, not a whole network of them."""
    state = dict(_twin(name="model", batch_norm=False, bias=True).state_dict())
    del state["model.4.bias"]
    with pytest.raises(porting.PortingError) as caught:
        porting.load_torch(_model(batch_norm=False), state)
    assert caught.value.count == 1
    assert caught.value.unfilled == ["convs.2.bias (4,)"]


@pytest.mark.parametrize(
    "front",
    [
        *("net.", "model.", "dncnn.", "net.module.", "module.net.", "module.net.module."),
        "_orig_mod.net.module.model.",
    ],
)
def test_another_name_in_front_of_all_is_taken_off(front):
    state = _twin().state_dict()
    source = {"state_dict": {front + name: value for name, value in state.items()}}
    model = porting.from_torch("dncnn", source)
    _assert_holds(model, state)
    other = _model()
    porting.load_torch(other, source)
    _assert_holds(other, state)


def test_names_that_do_not_fit_are_shown():
    state = {f"encoder.{k}": v for k, v in _twin().state_dict().items()} | {"other.x": np.ones(2)}
    with pytest.raises(
        porting.UnknownWeightsError, match=r"Entries found: encoder\.dncnn\.0\.weig"
    ):
        porting.from_torch("dncnn", state)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(value):
    state = {k: v.numpy().astype("f8") for k, v in _twin().state_dict().items()}
    state["dncnn.3.weight"][1] = value
    model = _model()
    for load in (
        lambda: porting.load_torch(model, state),
        lambda: porting.from_torch("dncnn", state),
    ):
        with pytest.raises(porting.PortingError, match=r"dncnn\.3\.weight: 1 of 4 values are not"):
            load()


def _assert_holds(model, state):
    arrays = porting.to_torch(model)
    for name, value in state.items():
        np.testing.assert_array_equal(arrays[name], value.numpy())


def test_sizes_that_no_network_has():
    with pytest.raises(porting.UnknownWeightsError, match="depth must be at least 2"):
        porting.from_torch("dncnn", {"dncnn.0.weight": np.ones((4, 1, 3, 3), "f4")})
    unet = {"head.weight": np.ones((3, 1, 3, 3)), "tail.weight": np.ones((1, 3, 3, 3))}
    unet["bottom.0.conv2.weight"] = np.ones((3, 3, 3, 3))
    for name in ("cweight", "cbias", "sweight", "sbias", "gn.weight", "gn.bias"):
        unet[f"bottom.0.attention.{name}"] = np.ones((1, 0, 1, 1))
    with pytest.raises(porting.UnknownWeightsError):
        porting.from_torch("attention_unet", unet)
    odd = {
        "conv1.weight": np.ones((8, 3, 7, 7), "f4"),
        "layer1.0.sa.cweight": np.ones((1, 0, 1, 1)),
    }
    with pytest.raises(porting.UnknownWeightsError):
        porting.from_torch("sa_resnet50", odd)


def test_mixed_naming_schemes_are_refused():
    state = dict(_twin().state_dict())
    state["model.0.weight"] = state.pop("dncnn.0.weight")
    with pytest.raises(porting.PortingError) as caught:
        porting.load_torch(_model(), state)
    assert any("model.0.weight" in line for line in caught.value.unused)
    assert caught.value.unfilled == ["convs.0.kernel (3, 3, 1, 4)"]


def test_weights_of_another_depth():
    with pytest.raises(porting.PortingError) as caught:
        porting.load_torch(_model(), TorchDnCNN(1, 6, 4).state_dict())
    assert any("norms.2.scale" in line for line in caught.value.unused)
    assert caught.value.misfits  # the last layer's place holds a hidden one


def test_options_that_contradict_the_weights():
    with pytest.raises(porting.PortingError):
        porting.from_torch("dncnn", _twin().state_dict(), depth=5)


def test_weights_of_another_architecture():
    with pytest.raises(ValueError, match="not DnCNN's weights"):
        porting.from_torch("dncnn", {"layer1.0.conv1.weight": np.ones((4, 4, 1, 1), "f4")})
    with pytest.raises(ValueError, match="Did you mean 'dncnn'"):
        porting.from_torch("dncn", {})


def test_a_network_without_rules():
    class Other(nnx.Module):
        pass

    with pytest.raises(ValueError, match="no porting rules for Other"):
        porting.to_torch(Other())
