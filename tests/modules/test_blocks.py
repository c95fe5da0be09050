"""The blocks of the U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sa_flax.modules.blocks import conv3x3


def test_a_convolution_in_bfloat16_sums_its_bias_gradient_in_float32():
    conv = conv3x3(2, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(conv)
    x = jnp.ones((2, 64, 64, 2), jnp.bfloat16)
    assert conv(x).dtype == jnp.bfloat16
    grads = jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(x).astype(jnp.float32)))(params)
    # The gradient is 1 at each of 8192 positions; a running sum in bfloat16 stays at 256.
    np.testing.assert_array_equal(grads["bias"][...], 2 * 64 * 64)
    assert grads["bias"][...].dtype == jnp.float32
