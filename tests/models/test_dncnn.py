"""DnCNN: shapes, batch norm as PyTorch's, folding, and parity with the plain-PyTorch twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from sa_flax import porting
from tests.annotations import refuses
from tests.torch_reference.dncnn import DnCNN as TorchDnCNN
from tests.torch_reference.weights import as_tensors, nchw, nhwc, randomise


def _pair(*, channels=1, depth=5, width=8, batch_norm=True, bias=False, name="dncnn"):
    """A float64 twin with random weights, and the same network here."""
    twin = randomise(
        TorchDnCNN(channels, depth, width, batch_norm=batch_norm, bias=bias, name=name).double()
    )
    model = porting.from_torch("dncnn", twin.state_dict(), param_dtype="float64")
    return twin, model


def _pictures(channels=1, shape=(2, 9, 12)):
    return jnp.asarray(np.random.default_rng(0).random((*shape, channels)))


@pytest.mark.parametrize(
    ("channels", "batch_norm", "bias", "name"),
    [
        (1, True, False, "dncnn"),
        (3, True, True, "model"),
        (1, False, True, "model"),
        (3, False, False, "dncnn"),
    ],
)
def test_evaluation_equals_the_twin(channels, batch_norm, bias, name):
    with jax.enable_x64(True):
        twin, model = _pair(channels=channels, batch_norm=batch_norm, bias=bias, name=name)
        assert (model.channels, model.depth, model.width) == (channels, 5, 8)
        assert (model.batch_norm, model.bias) == (batch_norm, bias)
        x = _pictures(channels)
        out = np.asarray(model(x))
        np.testing.assert_allclose(out, nhwc(twin.eval()(nchw(x))), rtol=1e-10, atol=1e-10)
        if batch_norm:
            folded = sa_flax.porting.fold_batch_norm(model)
            assert not folded.batch_norm
            np.testing.assert_allclose(np.asarray(folded(x)), out, rtol=1e-10, atol=1e-10)
        else:
            assert sa_flax.porting.fold_batch_norm(model) is model


def test_a_training_step_equals_the_twin():
    """Output, every gradient, and the running statistics, which take the unbiased variance."""
    with jax.enable_x64(True):
        twin, model = _pair()
        x, weights = _pictures(), np.random.default_rng(1).standard_normal((2, 9, 12, 1))
        model.train()
        graph, params, stats = nnx.split(model, nnx.Param, ...)

        def loss(params, stats, x):
            network = nnx.merge(graph, params, stats, copy=True)
            out = network(x)
            return jnp.sum(out * weights), (out, nnx.state(network, nnx.BatchStat))

        (gradients, gradient_x), (out, stats) = jax.jit(
            jax.grad(loss, argnums=(0, 2), has_aux=True)
        )(params, stats, jnp.asarray(x))

        torch_x = nchw(x).requires_grad_()
        twin_out = twin.train()(torch_x)
        (twin_out * nchw(weights)).sum().backward()
        bound = {"rtol": 1e-10, "atol": 1e-10}
        np.testing.assert_allclose(out, nhwc(twin_out), **bound)
        np.testing.assert_allclose(gradient_x, nhwc(torch_x.grad), **bound)
        grown = porting.to_torch(nnx.merge(graph, gradients, stats))
    for name, parameter in twin.named_parameters():
        np.testing.assert_allclose(grown[name], parameter.grad.numpy(), **bound, err_msg=name)
    buffers = [n for n, _ in twin.named_buffers() if not n.endswith("num_batches_tracked")]
    assert len(buffers) == 6
    for name in buffers:
        np.testing.assert_allclose(
            grown[name], twin.state_dict()[name].numpy(), **bound, err_msg=name
        )


def test_weights_go_back_strictly():
    twin = randomise(TorchDnCNN(3, 5, 8))
    model = porting.from_torch("dncnn", twin.state_dict())
    arrays = porting.to_torch(model)
    assert arrays.keys() == twin.state_dict().keys()
    fresh = TorchDnCNN(3, 5, 8)
    fresh.load_state_dict(as_tensors(arrays), strict=True)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=0, atol=0)


def test_float32_at_full_size():
    """17 layers of 64 features: rounding of float32 only, on pictures in [0, 1]."""
    twin = randomise(TorchDnCNN()).eval()
    model = porting.from_torch("dncnn", twin.state_dict())
    x = _pictures(shape=(1, 16, 16)).astype("f4")
    with torch.no_grad():
        expected = nhwc(twin(nchw(x)))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(model(x)) / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize(("depth", "count"), [(17, 556_032), (20, 667_008)])
def test_parameter_counts(depth, count):
    """9 * 64 (first) + (depth - 2) (64 * 64 * 9 + 128) + 9 * 64 (last)."""
    model = nnx.eval_shape(lambda: sa_flax.create_model("dncnn", depth=depth, rngs=nnx.Rngs(0)))
    sizes = [leaf.get_value().size for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    assert sum(sizes) == count == 2 * 576 + (depth - 2) * (36_864 + 128)


def test_the_dtype_of_the_picture_comes_back():
    model = sa_flax.create_model("dncnn", depth=3, width=4, dtype="bfloat16", rngs=nnx.Rngs(0))
    model.eval()
    assert model(jnp.ones((1, 4, 4, 1), jnp.float32)).dtype == jnp.float32
    assert model(jnp.ones((1, 4, 4, 1), jnp.bfloat16)).dtype == jnp.bfloat16


def test_sizes_that_do_not_fit():
    for option, value in {"channels": 0, "depth": 1, "width": 0}.items():
        with pytest.raises(ValueError, match=option):
            sa_flax.create_model("dncnn", rngs=nnx.Rngs(0), **{option: value})
    with refuses(r"width must be one number; got \(8, 16\)"):
        sa_flax.create_model("dncnn", width=(8, 16), rngs=nnx.Rngs(0))
    model = sa_flax.create_model("dncnn", depth=2, width=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(B, H, W, 1\)"):
        model(jnp.ones((1, 4, 4, 3)))


def test_a_single_value_a_channel_cannot_train():
    model = sa_flax.create_model("dncnn", depth=3, width=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="more than one value"):
        model(jnp.ones((1, 1, 1, 1)))
