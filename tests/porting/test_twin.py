"""A network's PyTorch twin has the network's options and weights, and so has its file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors import safe_open

import sa_flax
from sa_flax import porting
from sa_flax.errors import CheckpointError, InputError
from sa_flax.porting import torch_unet
from sa_flax.porting.port import port_checkpoint
from sa_flax.porting.twin import twin_of, write_torch_file
from tests.torch_reference.weights import drawn_model, nchw, nhwc

SIZES = {"channels": 3, "width": 8, "levels": 2}
BY_PLACE = {
    "attend": "both",
    "attention": {"encoder.0": "cbam", 1: "non_local", "decoder.0": "squeeze_excite"},
    "attention_options": {"encoder.0": {"kernel_size": 3}, 1: {"subsample": 2, "bottleneck": 3}},
}


def drawn(name: str, **options):
    """A network with weights of both signs, so that its results stay near its picture's range."""
    model = drawn_model(name, **options)
    rng = np.random.default_rng(1)
    for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        leaf.set_value(leaf.get_value() * rng.choice(np.float32([-1, 1]), leaf.get_value().shape))
    model.eval()
    return model


def results(model, module, *, sigma=None):
    """What both make of a picture, (1, 7, 10, C)."""
    x = np.random.default_rng(0).random((1, 7, 10, model.channels), np.float32)
    level = () if sigma is None else (np.float32([sigma]),)
    with torch.no_grad():
        theirs = nhwc(module(nchw(x), *map(torch.from_numpy, level)))
    return np.asarray(model(jnp.asarray(x), *map(jnp.asarray, level))), theirs


@pytest.mark.parametrize("name", sa_flax.list_pretrained())
def test_the_networks_that_come_with_the_package(name):
    model, _ = sa_flax.from_pretrained(name)
    ours, theirs = results(model, twin_of(model).module())
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attention": "none"}, {"attention": "none", "attend": "none"}),
        (
            {"attention": "shuffle", "attend": "encoder", "blocks": 2, "noise_level": True},
            {"attention": "shuffle", "attend": "encoder", "attention_options": {}},
        ),
        (
            {"attention": "eca", "attend": "decoder", "blocks": (3, 1)},
            {"attention": "eca", "attend": "decoder", "blocks": [3, 1]},
        ),
        ({"attention": "none", "width": (12, 8)}, {"width": [12, 8], "levels": 2}),
        ({"attention": "none", "width": (8, 16)}, {"width": 8, "levels": 2}),
        (
            {"attention": "danet", "attend": "both", "attention_options": {"reduction": 2}},
            {"attention": "danet", "attend": "both", "attention_options": {"reduction": 4}},
        ),
        (
            {"attention": "non_local", "attend": "both", "attention_options": {"subsample": 2}},
            {
                "attention": "non_local",
                "attend": "both",
                "attention_options": {"subsample": 2},
            },
        ),
        (
            BY_PLACE,
            {
                "attention": {
                    "encoder.0": "cbam",
                    "bottom": "non_local",
                    "decoder.0": "squeeze_excite",
                },
                "attend": "both",
                "attention_options": {
                    "encoder.0": {"reduction": 4, "kernel_size": 3},
                    "bottom": {"bottleneck": 3, "subsample": 2},
                    "decoder.0": {"reduction": 4},
                },
            },
        ),
        (  # one kind, whose options differ between places
            {
                "attend": "both",
                "attention": {0: "non_local", 1: "non_local"},
                "attention_options": {1: {"subsample": 2}},
            },
            {
                "attention": dict.fromkeys(("bottom", "encoder.0", "decoder.0"), "non_local"),
                "attend": "both",
                "attention_options": {"bottom": {"subsample": 2}, "encoder.0": {}, "decoder.0": {}},
            },
        ),
    ],
)
def test_options_of_the_twin(options, expected):
    model = drawn("attention_unet", **(SIZES | options))
    twin = twin_of(model)
    if options.get("attention") == "danet":  # widths of 8 and 16: 2 and 4 tell the same
        expected = expected | {"attention_options": twin.options["attention_options"]}
    found = {name: twin.options[name] for name in expected}
    assert found == expected
    assert json.loads(json.dumps(twin.options)) == twin.options
    ours, theirs = results(model, twin.module(), sigma=0.1 if twin.takes_noise_level else None)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_pth_files_load_by_the_file_that_needs_only_torch(tmp_path):
    model = drawn("attention_unet", **SIZES, **BY_PLACE)
    write_torch_file(model, tmp_path / "net.pth")
    ours, theirs = results(model, torch_unet.load(tmp_path / "net.pth"))
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_norm": False, "bias": False}])
def test_dncnn_has_the_names_that_other_programs_know(tmp_path, options):
    """Those of KAIR, which spandrel goes by: a bias at every convolution, and ReLUs between."""
    model = drawn("dncnn", channels=3, depth=9, width=4, **options)
    write_torch_file(model, tmp_path / "net.pth")
    content = torch.load(tmp_path / "net.pth", weights_only=True)
    names = {f"model.{2 * i}.{kind}" for i in range(9) for kind in ("weight", "bias")}
    assert content["params"].keys() == names
    layers = []
    for i in range(9):
        weight, bias = (content["params"][f"model.{2 * i}.{kind}"] for kind in ("weight", "bias"))
        layers.append((weight, bias))

    def known(noisy):
        x = noisy
        for weight, bias in layers[:-1]:
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
        return noisy - torch.nn.functional.conv2d(x, *layers[-1], padding=1)

    ours, theirs = results(model, known)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_safetensors_hold_the_options_and_load_here(tmp_path):
    model = drawn("attention_unet", **SIZES, attention="eca", attend="decoder")
    write_torch_file(model, tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="np") as file:
        about = file.metadata()
    assert about["format"] == "pt"
    assert about["architecture"] == "AttentionUNet"
    assert json.loads(about["options"]) == twin_of(model).options
    again = porting.from_torch("attention_unet", tmp_path / "net.safetensors")
    x = jnp.asarray(np.random.default_rng(0).random((1, 8, 8, 3), np.float32))
    np.testing.assert_allclose(again(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_what_weights_do_not_tell_comes_back(tmp_path, ending):
    """Which attention is where, and options without a shape, such as a share of the positions."""
    model = drawn("attention_unet", **SIZES, **BY_PLACE)
    write_torch_file(model, tmp_path / f"net.{ending}")
    x = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 3), np.float32))
    again = porting.from_torch("attention_unet", tmp_path / f"net.{ending}")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-6, atol=1e-6)
    port_checkpoint(tmp_path / f"net.{ending}", "attention_unet", tmp_path / "net")
    again, _ = sa_flax.from_pretrained(tmp_path / "net")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="not DnCNN's weights"):
        porting.from_torch("dncnn", tmp_path / f"net.{ending}")


def test_what_has_no_twin(tmp_path):
    sizes = SIZES | {"attend": "decoder"}
    odd = drawn("attention_unet", **sizes, attention_options={"epsilon": 1e-3})
    with pytest.raises(InputError, match=r"epsilon=0.001 has no PyTorch twin"):
        twin_of(odd)
    mine = drawn("attention_unet", **sizes, attention=lambda features, **_: jax.nn.relu)
    assert twin_of(drawn("attention_unet", **SIZES)).options["attend"] == "decoder"
    with pytest.raises(InputError, match="attention of your own"):
        twin_of(mine)
    with pytest.raises(CheckpointError, match=r"can write .safetensors, .pth and .pt only"):
        write_torch_file(drawn("attention_unet", **SIZES), tmp_path / "net.bin")
    assert sa_flax.list_models()
    assert list(tmp_path.iterdir()) == []
