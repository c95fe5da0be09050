"""The blocks of the U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sa_flax.functional.batch_norm import batch_moments
from sa_flax.functional.canvas import Canvas, blank_outside, on_canvas
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_of_a_convolution(dtype):
    """Value, gradients, forward mode and second derivatives are those of `nnx.relu` after it."""
    conv = conv3x3(2, 3, dtype=dtype, rngs=rngs())
    graphdef, params = nnx.split(conv)
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.standard_normal((1, 6, 5, 2)), dtype) for _ in range(2))

    def fused(x):
        return nnx.merge(graphdef, params)(x, relu=True)

    def apart(x):
        return nnx.relu(nnx.merge(graphdef, params)(x))

    np.testing.assert_array_equal(fused(x), apart(x))
    assert fused(x).dtype == dtype
    assert (np.asarray(fused(x)) == 0).any()

    def squares(apply):
        return lambda x: jnp.sum(jnp.square(apply(x)))

    for ours, expected in (
        (jax.jvp(fused, (x,), (dx,)), jax.jvp(apart, (x,), (dx,))),
        (jax.grad(squares(fused))(x), jax.grad(squares(apart))(x)),
        (
            jax.jvp(jax.grad(squares(fused)), (x,), (dx,)),
            jax.jvp(jax.grad(squares(apart)), (x,), (dx,)),
        ),
    ):
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 5, 7, 3)])
def test_derivatives_of_downsampling_are_a_strided_convolutions(shape):
    with jax.enable_x64(True):
        layer = Downsample(3, 4, param_dtype=jnp.float64, rngs=rngs())
        graphdef, params = nnx.split(layer)
        rng = np.random.default_rng(0)
        x, dx = rng.standard_normal((2, *shape))
        moved = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), params)

        def ours(params, x):
            return nnx.merge(graphdef, params)(x)

        def plain(params, x):
            kernel, bias = params["conv"]["kernel"][...], params["conv"]["bias"][...]
            dimensions = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(
                x, kernel, (2, 2), "VALID", dimension_numbers=dimensions
            )
            return y + bias.reshape(1, 1, 1, -1)

        def cubes(apply):
            return lambda params, x: jnp.sum(apply(params, x) ** 3)

        def found(apply):
            gradient = jax.grad(cubes(apply), argnums=(0, 1))
            return (
                jax.jvp(apply, (params, x), (moved, dx)),
                jax.jvp(gradient, (params, x), (moved, dx)),
            )

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
            found(ours),
            found(plain),
        )


@pytest.mark.parametrize("valid", [(5, 7), (8, 12), (1, 12), (8, 1)])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_convolution_on_a_canvas_sees_nothing_beyond_the_picture(valid, factor):
    conv = conv3x3(2, 3, rngs=rngs())
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 12, 2)), jnp.float32)
    size = np.int32(valid) * factor - (factor - 1)  # the last row of the map is partly inside
    height, width = valid

    @jax.jit
    def run(x, size):
        with on_canvas(Canvas(8 * factor, 12 * factor, size)):
            return conv(x), blank_outside(x)

    y, blanked = run(x, size)
    np.testing.assert_array_equal(blanked[:, height:], 0)
    np.testing.assert_allclose(
        y[:, :height, :width], conv(x[:, :height, :width]), rtol=1e-5, atol=1e-5
    )


def test_an_empty_batch_has_no_moments():
    with refuses(r"no mean of nothing; x has shape \(0, 4, 4, 2\)"):
        batch_moments(jnp.zeros((0, 4, 4, 2)))
