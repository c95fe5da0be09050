"""The blocks of the U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sa_flax.modules import Downsample, ResidualBlock, Upsample
from sa_flax.modules.batch_norm import BatchNorm
from sa_flax.modules.blocks import conv3x3
from tests.annotations import refuses


def test_a_convolution_in_bfloat16_sums_its_bias_gradient_in_float32():
    conv = conv3x3(2, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(conv)
    x = jnp.ones((2, 64, 64, 2), jnp.bfloat16)
    assert conv(x).dtype == jnp.bfloat16
    grads = jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(x).astype(jnp.float32)))(params)
    # The gradient is 1 at each of 8192 positions; a running sum in bfloat16 stays at 256.
    np.testing.assert_array_equal(grads["bias"][...], 2 * 64 * 64)
    assert grads["bias"][...].dtype == jnp.float32


def rngs() -> nnx.Rngs:
    return nnx.Rngs(jax.random.key(0, impl="rbg"))  # quick to compile


LAYERS = {
    "convolution": lambda: conv3x3(4, 4, rngs=rngs()),
    "residual block": lambda: ResidualBlock(4, rngs=rngs()),
    "downsampling": lambda: Downsample(4, 8, rngs=rngs()),
    "upsampling": lambda: Upsample(4, 2, rngs=rngs()),
    "batch": lambda: BatchNorm(4),
}


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_maps_of_whole_numbers_are_refused(kind, dtype):
    with refuses(rf"{kind}.*floating-point numbers; got {dtype}.*/ 255"):
        LAYERS[kind]()(jnp.zeros((1, 4, 4, 4), dtype))


@pytest.mark.parametrize("kind", ["residual block", "downsampling", "upsampling"])
def test_maps_with_channels_first_are_refused(kind):
    with refuses(r"channels first"):
        LAYERS[kind]()(jnp.zeros((1, 4, 6, 6)))


def test_batch_norm_is_for_its_channels():
    with refuses(r"x has shape \(1, 4, 6, 6\), channels last.*\(4,\)"):
        BatchNorm(4)(jnp.zeros((1, 4, 6, 6)))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_promotes_nothing_unasked(training):
    norm = BatchNorm(4, param_dtype=jnp.bfloat16)
    norm.train() if training else norm.eval()
    y = norm(jnp.ones((2, 3, 3, 4), jnp.float16))
    assert y.dtype == jnp.float16
    assert norm.mean[...].dtype == jnp.bfloat16
