"""The Flax U-Net against its plain-PyTorch twin: outputs and the gradient of every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from benchmarks.shapes import UNET_CROPS, few_pixels
from sa_flax import porting
from sa_flax.porting import torch_unet
from tests.torch_reference.weights import as_tensors


def _randomised(model: nnx.Module, seed: int = 0) -> nnx.Module:
    """Every parameter drawn anew: fresh attention weights are 0 and would hide mistakes."""
    rng = np.random.default_rng(seed)
    state = nnx.state(model, nnx.Param)
    nnx.update(
        model,
        jax.tree.map(
            lambda leaf: jnp.asarray(
                leaf + 0.3 * rng.standard_normal(leaf.shape) / np.sqrt(max(leaf.size / 8, 1)),
                leaf.dtype,
            ),
            state,
        ),
    )
    return model


@pytest.mark.parametrize(
    ("attention", "attend", "blocks", "width"),
    [
        pytest.param("shuffle", "decoder", 1, 8, marks=pytest.mark.slow),
        ("shuffle", "both", 2, 8),
        ("none", "none", 1, [12, 6, 10]),
    ],
)
def test_twin_gives_equal_outputs_and_gradients(attention, attend, blocks, width):
    sizes = {"channels": 3, "width": width, "levels": 3, "blocks": blocks}
    with jax.enable_x64(True):
        model = _randomised(
            sa_flax.create_model(
                "attention_unet",
                **sizes,
                attention=attention,
                attend=attend,
                param_dtype=jnp.float64,
                rngs=nnx.Rngs(0),
            )
        )
        twin = torch_unet.AttentionUNet(**sizes, attention=attention, attend=attend).double()
        twin.load_state_dict(as_tensors(porting.to_torch(model)), strict=True)
        rng = np.random.default_rng(1)
        noisy, weights = rng.random((2, *few_pixels(UNET_CROPS, multiple=4)))
        graph, state = nnx.split(model)

        def loss(state, x):
            out = nnx.merge(graph, state)(x)
            return jnp.sum(out * weights), out

        (gradients, gradient_x), out = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
            state, jnp.asarray(noisy)
        )
        # Under PyTorch's names and in its layouts, as the parameters themselves.
        nnx.update(model, gradients)
        ours = porting.to_torch(model)

    x = torch.from_numpy(noisy.transpose(0, 3, 1, 2).copy()).requires_grad_()
    twin_out = twin(x)
    (twin_out * torch.from_numpy(weights.transpose(0, 3, 1, 2).copy())).sum().backward()
    bound = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(out, twin_out.detach().numpy().transpose(0, 2, 3, 1), **bound)
    np.testing.assert_allclose(gradient_x, x.grad.numpy().transpose(0, 2, 3, 1), **bound)
    twin_gradients = {name: p.grad for name, p in twin.named_parameters()}
    assert ours.keys() == twin_gradients.keys()
    for name, gradient in ours.items():
        np.testing.assert_allclose(gradient, twin_gradients[name].numpy(), **bound, err_msg=name)
