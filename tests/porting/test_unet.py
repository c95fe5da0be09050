"""The attention U-Net's weights go to PyTorch and back, for every kind of attention with rules."""

import inspect
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from sa_flax import porting
from sa_flax.errors import PortingError
from sa_flax.porting.attention_rules import ATTENTION_RULES
from sa_flax.porting.convert import model_leaves
from sa_flax.porting.torch_unet import AttentionUNet as TorchUNet
from tests.slow import some_slow
from tests.torch_reference.weights import as_tensors, drawn_model, nchw, nhwc, randomise

SIZES = {"channels": 3, "width": 8, "levels": 2, "blocks": 1}


def _forward(model, *inputs):
    graph, state = nnx.split(model)
    # Compiled in a hurry: most of the time of these tests would go into it.
    run = jax.jit(
        lambda state, *inputs: nnx.merge(graph, state)(*inputs),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return run(state, *inputs)


def test_every_attention_has_rules():
    assert sorted(ATTENTION_RULES) == sa_flax.list_attentions()


@pytest.mark.parametrize(
    "attention", some_slow(sa_flax.list_attentions(), "shuffle", "cbam", "dual", "non_local")
)
def test_there_and_back(attention):
    with jax.enable_x64(True):
        twin = TorchUNet(**SIZES, attention=attention, attend="both").double()
        randomise(twin)
        model = porting.from_torch("attention_unet", twin.state_dict(), param_dtype="float64")
        x = np.random.default_rng(0).random((2, 8, 12, 3))
        out = np.asarray(_forward(model, x))
        with torch.no_grad():
            np.testing.assert_allclose(out, nhwc(twin(nchw(x))), rtol=1e-10, atol=1e-10)
        arrays = porting.to_torch(model)
    assert arrays.keys() == twin.state_dict().keys()
    fresh = TorchUNet(**SIZES, attention=attention, attend="both").double()
    fresh.load_state_dict(as_tensors(arrays), strict=True)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=0, atol=0)


def test_trained_here_used_there():
    model = drawn_model("attention_unet", **SIZES)
    twin = TorchUNet(**SIZES)
    twin.load_state_dict(as_tensors(porting.to_torch(model)), strict=True)
    x = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    with torch.no_grad():
        expected = nhwc(twin(nchw(x)))
    np.testing.assert_allclose(np.asarray(_forward(model, x)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "none", "attend": "none"},
        {"attention": "shuffle", "attend": "encoder", "levels": 3},
        {"attention": "shuffle", "attend": "both", "levels": 1},
        {"attention": "shuffle", "attend": "decoder", "attention_options": {"groups": 2}},
        {"attention": "squeeze_excite", "attend": "both", "width": 32},
        {"attention": "squeeze_excite", "attend": "both", "attention_options": {"reduction": 2}},
        {"attention": "eca", "attend": "both", "attention_options": {"kernel_size": 7}},
        {"attention": "cbam", "attend": "both", "attention_options": {"kernel_size": 3}},
        {"attention": "cbam", "attend": "both", "attention_options": {"reduction": 2}},
        {"attention": "sge", "attend": "both", "attention_options": {"groups": 2}},
        {"attention": "dual", "attend": "both", "attention_options": {"kernel_size": 3}},
        {"attention": "non_local", "attend": "both", "attention_options": {"bottleneck": 3}},
        *(
            {"attention": "non_local", "attend": "both", "attention_options": {"affinity": kind}}
            for kind in ("gaussian", "dot_product", "concatenation")
        ),
        {"attention": "self_attention", "attend": "both", "attention_options": {"reduction": 2}},
        {"attention": "danet", "attend": "both", "attention_options": {"reduction": 2}},
        {"attention": "shuffle", "attend": "decoder", "noise_level": True, "channels": 1},
        {"attention": "shuffle", "attend": "decoder", "blocks": 3},
        {"attention": "shuffle", "attend": "decoder", "levels": 3, "blocks": (2, 1, 3)},
        {"attention": "shuffle", "attend": "decoder", "levels": 3, "width": (16, 8, 8)},
    ],
)
def test_weights_tell_the_options(options):
    """A network rebuilt from nothing but its weights has the same leaves with the same values."""
    model = drawn_model("attention_unet", **(SIZES | options))
    rebuilt = porting.from_torch("attention_unet", porting.to_torch(model))
    before, after = model_leaves(model), model_leaves(rebuilt)
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        np.testing.assert_array_equal(leaf[...], after[path][...])
    assert rebuilt.noise_level == model.noise_level
    assert rebuilt.channels == model.channels
    assert _settings(model) == _settings(rebuilt)


@pytest.mark.parametrize("damaged", [None, np.float32(1)])
def test_an_entry_that_does_not_fit_is_named(damaged):
    state = porting.to_torch(drawn_model("attention_unet", **SIZES))
    state["down.0.conv.weight"] = damaged
    with pytest.raises(
        PortingError, match=r"1 (filled by nothing|of the wrong).*\n.*down\.0\.conv"
    ):
        porting.from_torch("attention_unet", {k: v for k, v in state.items() if v is not None})


def _settings(model):
    """What weights don't hold by themselves, of every attention."""
    names = ("groups", "affinity", "subsample", "epsilon")
    return [
        {name: getattr(layer, name) for name in names if hasattr(layer, name)}
        for _, layer in nnx.iter_modules(model)
    ]


def test_options_that_weights_can_not_tell_are_given():
    options = {"affinity": "dot_product", "subsample": 2}
    model = drawn_model(
        "attention_unet",
        **SIZES,
        attention="non_local",
        attend="both",
        attention_options=options,
    )
    rebuilt = porting.from_torch(
        "attention_unet", porting.to_torch(model), attention_options={"subsample": 2}
    )
    assert rebuilt.bottom.layers[0].attention.subsample == 2
    assert rebuilt.bottom.layers[0].attention.affinity == "dot_product"


def test_weights_of_no_known_attention():
    state = dict(TorchUNet(**SIZES).state_dict())
    state["decoder.0.0.attention.stranger"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"kind of attention.*stranger"):
        porting.from_torch("attention_unet", state)


def test_weights_of_another_network():
    with pytest.raises(ValueError, match="not the attention U-Net's"):
        porting.from_torch("attention_unet", {"head.weight": np.ones((4, 4), "f4")})


def test_every_group_number_of_one_network_must_agree():
    sizes = SIZES | {"levels": 3}
    state = dict(TorchUNet(**sizes, attention_options={"groups": 2}).state_dict())
    odd = TorchUNet(**sizes, attention_options={"groups": 1}).state_dict()
    state |= {name: odd[name] for name in odd if name.startswith("decoder.0.0.attention")}
    with pytest.raises(ValueError, match=r"groups \[.*load_torch"):
        porting.from_torch("attention_unet", state)


KINDS_AND_OPTIONS = [
    *((kind, {}) for kind in sa_flax.list_attentions()),
    ("shuffle", {"groups": 2}),
    ("squeeze_excite", {"reduction": 2}),
    ("eca", {"kernel_size": 5}),
    ("cbam", {"reduction": 2, "kernel_size": 3}),
    ("sge", {"groups": 4}),
    ("dual", {"reduction": 2, "kernel_size": 3}),
    ("non_local", {"bottleneck": 3, "subsample": 2}),
    ("non_local", {"affinity": "gaussian"}),
    ("non_local", {"affinity": "dot_product"}),
    ("non_local", {"affinity": "concatenation"}),
]


@pytest.mark.parametrize(("attention", "options"), KINDS_AND_OPTIONS)
def test_the_shipped_network_equals_ours(attention, options):
    """Every attention with every option, in the bottom of a network with a single level."""
    sizes = {"channels": 1, "width": 8, "levels": 1, "attend": "both", "attention": attention}
    theirs = randomise(TorchUNet(**sizes, attention_options=options).double())
    told = {"subsample": options["subsample"]} if "subsample" in options else {}
    with jax.enable_x64(True):
        model = porting.from_torch(
            "attention_unet",
            theirs.state_dict(),
            param_dtype="float64",
            **({"attention_options": told} if told else {}),
        )
        x = np.random.default_rng(0).random((2, 5, 7, 1))
        with torch.no_grad():
            expected = nhwc(theirs(nchw(x)))
        np.testing.assert_allclose(_forward(model, x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 9), (2, 3), (6, 11)])
def test_the_shipped_network_takes_any_size_and_a_noise_level(size):
    sizes = {"channels": 3, "width": 4, "levels": 4, "attention": "none", "noise_level": True}
    sizes["blocks"] = [3, 1, 2, 1]
    theirs = randomise(TorchUNet(**sizes).double())
    x, sigma = np.random.default_rng(0).random((2, *size, 3)), np.array([0.1, 0.2])
    with torch.no_grad():
        expected = nhwc(theirs(nchw(x), torch.from_numpy(sigma)))
    with jax.enable_x64(True):
        model = porting.from_torch("attention_unet", theirs.state_dict(), param_dtype="float64")
        np.testing.assert_allclose(_forward(model, x, sigma), expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="sigma"):
        theirs(nchw(x))


def test_the_shipped_file_needs_only_torch():
    source = Path(inspect.getsourcefile(TorchUNet)).read_text()
    imported = re.findall(r"^(?:import|from) (\w+)", source, flags=re.MULTILINE)
    assert set(imported) == {"math", "torch"}
