"""SA-ResNet: the paper's sizes, and parity with the plain-PyTorch twin under its state dict."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from sa_flax import porting
from sa_flax.models import SAResNet
from sa_flax.porting.convert import model_leaves
from tests.torch_reference.sa_resnet import SAResNet as TorchSAResNet
from tests.torch_reference.weights import as_tensors, nchw, nhwc, randomise

NARROW = {"blocks": (1, 2, 1, 1), "width": 8, "num_classes": 5, "groups": 4}


def _abstract(name="sa_resnet50", **options):
    return nnx.eval_shape(lambda: sa_flax.create_model(name, **options, rngs=nnx.Rngs(0)))


def _narrow_pair(**options):
    """A float64 twin with random weights, and the same network here."""
    twin = randomise(TorchSAResNet(**NARROW).double())
    model = nnx.eval_shape(
        lambda: SAResNet(**NARROW, **options, param_dtype="float64", rngs=nnx.Rngs(0))
    )
    porting.load_torch(model, {"state_dict": twin.state_dict()})
    return twin, model


def _pictures(size=64, batch=2):
    return np.random.default_rng(0).standard_normal((batch, size, size, 3))


def _assert_close(actual, expected, what=""):
    """Float64 rounding through some thirty layers, against the largest value of the array."""
    scale = max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-10, err_msg=what)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sa_resnet50", 25_557_740),
        pytest.param("sa_resnet101", 44_550_684, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_of_the_paper(name, count):
    model = _abstract(name)
    sizes = [leaf.get_value().size for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    assert sum(sizes) == count


@pytest.mark.slow
def test_the_deepest_has_as_many_parameters_as_its_twin():
    model = _abstract("sa_resnet152")
    sizes = [leaf.get_value().size for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    with torch.device("meta"):
        twin = TorchSAResNet((3, 8, 36, 3))
    assert sum(sizes) == sum(p.numel() for p in twin.parameters())


def _multiply_adds(jaxpr) -> int:
    """Those of all convolutions and matrix products in a jaxpr, padding included."""
    total = 0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += _multiply_adds(inner)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = equation.params["dimension_numbers"].rhs_spec[0]
            total += equation.outvars[0].aval.size * math.prod(kernel) // kernel[features]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += equation.outvars[0].aval.size * depth
    return total


@pytest.mark.parametrize(
    ("name", "giga"),
    [("sa_resnet50", 4.125), pytest.param("sa_resnet101", 7.854, marks=pytest.mark.slow)],
)
def test_multiply_adds_of_the_paper(name, giga):
    model = _abstract(name)
    model.eval()
    graph, state = nnx.split(model)
    picture = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, picture)
    assert _multiply_adds(jaxpr.jaxpr) / 1e9 == pytest.approx(giga, rel=0.01)


def test_evaluation_equals_the_twin():
    """Logits and all four stages."""
    with jax.enable_x64(True):
        twin, model = _narrow_pair()
        model.eval()
        x = _pictures()
        maps, logits = nnx.jit(lambda model, x: (model.features(x), model(x)))(model, x)
        with torch.no_grad():
            twin_maps, twin_logits = twin.eval().stages(nchw(x)), twin(nchw(x))
        assert [m.shape for m in maps] == [(2, 16 // 2**i, 16 // 2**i, 32 * 2**i) for i in range(4)]
        for ours, theirs in zip(maps, twin_maps, strict=True):
            _assert_close(np.asarray(ours), nhwc(theirs))
        _assert_close(np.asarray(logits), twin_logits.numpy())


def test_a_training_step_equals_the_twin():
    """Logits, the gradient of every parameter and of the picture, and the running statistics."""
    with jax.enable_x64(True):
        twin, model = _narrow_pair()
        model.train()
        x, weights = _pictures(), np.random.default_rng(1).standard_normal((2, 5))
        graph, params, stats = nnx.split(model, nnx.Param, ...)

        def loss(params, stats, x):
            network = nnx.merge(graph, params, stats, copy=True)
            logits = network(x)
            return jnp.sum(logits * weights), (logits, nnx.state(network, nnx.BatchStat))

        (gradients, gradient_x), (logits, stats) = jax.jit(
            jax.grad(loss, argnums=(0, 2), has_aux=True)
        )(params, stats, jnp.asarray(x))

        torch_x = nchw(x).requires_grad_()
        twin_logits = twin.train()(torch_x)
        (twin_logits * torch.from_numpy(weights)).sum().backward()
        _assert_close(np.asarray(logits), twin_logits.detach().numpy())
        _assert_close(np.asarray(gradient_x), nhwc(torch_x.grad))
        after = porting.to_torch(nnx.merge(graph, gradients, stats))
    checked = 0
    for name, parameter in twin.named_parameters():
        _assert_close(after[name], parameter.grad.numpy(), name)
        checked += 1
    for name, buffer in twin.named_buffers():
        if not name.endswith("num_batches_tracked"):
            _assert_close(after[name], buffer.numpy(), name)
            checked += 1
    assert checked == len(model_leaves(model))


def test_dilation_in_place_of_stride_equals_the_twin():
    """The same weights, with maps that stay at an eighth of the picture."""
    with jax.enable_x64(True):
        twin, model = _narrow_pair(features_only=True, output_stride=8)
        dilated = TorchSAResNet(**NARROW, dilate=(False, True, True)).double().eval()
        dilated.load_state_dict(twin.state_dict())
        model.eval()
        x = _pictures(size=40, batch=1)
        maps = nnx.jit(lambda model, x: model(x))(model, x)
        with torch.no_grad():
            twin_maps = dilated.stages(nchw(x))
        assert [m.shape[1] for m in maps] == [10, 5, 5, 5]
        for ours, theirs in zip(maps, twin_maps, strict=True):
            _assert_close(np.asarray(ours), nhwc(theirs))


@pytest.mark.parametrize(("stride", "sizes"), [(32, (16, 8, 4, 2)), (16, (16, 8, 4, 4))])
def test_stages_for_dense_prediction(stride, sizes):
    model = _abstract(features_only=True, output_stride=stride)
    assert not hasattr(model, "fc")
    graph, state = nnx.split(model)
    picture = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    maps = jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, picture)
    assert [m.shape for m in maps] == [
        (1, size, size, 256 * 2**stage) for stage, size in enumerate(sizes)
    ]


def test_a_full_size_official_checkpoint():
    """SA-ResNet-50 at float32, from a checkpoint in the official format; and strictly back."""
    twin = randomise(TorchSAResNet()).eval()
    state = {f"module.{name}": value for name, value in twin.state_dict().items()}
    model = porting.from_torch("sa_resnet50", {"epoch": 100, "state_dict": state})
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("f4")
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, x))
    with torch.no_grad():
        expected = twin(nchw(x)).numpy()
    scale = np.abs(expected).max()
    # Fifty layers of float32 sums over up to 4608 products.
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-4)
    arrays = porting.to_torch(model)
    assert arrays.keys() == twin.state_dict().keys()
    twin.load_state_dict(as_tensors(arrays), strict=True)


def test_weights_tell_depth_classes_and_groups():
    state = TorchSAResNet((1, 1, 2, 1), width=8, num_classes=7, groups=2).state_dict()
    with pytest.raises(ValueError, match=r"not 'sa_resnet50'.*blocks=\(1, 1, 2, 1\)"):
        porting.from_torch("sa_resnet50", state)
    state = TorchSAResNet(width=8, num_classes=7, groups=2).state_dict()
    model = porting.from_torch("sa_resnet50", state)
    assert model.fc.out_features == 7
    assert model.stages[0][0].sa.groups == 2
    headless = porting.from_torch("sa_resnet50", state, features_only=True)
    assert not hasattr(headless, "fc")
    for name in ("fc.weight", "fc.bias"):
        del state[name]
    assert porting.from_torch("sa_resnet50", state).features_only


def test_a_resnet_without_attention_is_refused():
    state = TorchSAResNet((1, 1, 1, 1), width=8, groups=2).state_dict()
    plain = {name: value for name, value in state.items() if ".sa." not in name}
    with pytest.raises(ValueError, match="not SA-ResNet's weights"):
        porting.from_torch("sa_resnet50", plain)


def test_sizes_that_do_not_fit():
    for options, match in (
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"width": 0}, "width"),
        ({"num_classes": 0}, "num_classes"),
        ({"groups": 3}, "groups that fit"),
    ):
        with pytest.raises(ValueError, match=match):
            _abstract(**options)
    with pytest.raises(ValueError, match="four numbers"):
        SAResNet(blocks=(1, 2), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\)"):
        _abstract()(jnp.ones((1, 32, 32, 1)))
