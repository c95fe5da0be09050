"""The channel shuffle folded into the next layer's kernel, and attention that leaves it out."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sa_flax.functional import (
    ShuffleAttentionParams,
    channel_shuffle,
    channel_unshuffle,
    fold_channel_shuffle,
    shuffle_attention,
)
from tests.annotations import refuses

GROUPS = 4


def draw(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    k = shape[-1] // (2 * GROUPS)
    x = jnp.asarray(rng.standard_normal(shape) * 2 + rng.standard_normal(shape[-1]), dtype)
    return x, ShuffleAttentionParams(
        *(jnp.asarray(rng.standard_normal(k), dtype) for _ in range(6))
    )


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_folds_exactly(groups):
    """Whole numbers: their sums are exact in whatever order."""
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.integers(-9, 9, (2, 5, 6, 12)), jnp.float32)
    kernel = jnp.asarray(rng.integers(-9, 9, (3, 3, 12, 7)), jnp.float32)
    shuffled = convolve(channel_shuffle(y, groups), kernel)
    np.testing.assert_array_equal(convolve(y, fold_channel_shuffle(kernel, groups)), shuffled)
    dense = kernel[0, 0]
    np.testing.assert_array_equal(
        y @ fold_channel_shuffle(dense, groups), channel_shuffle(y, groups) @ dense
    )
    # PyTorch's order of axes.
    folded = fold_channel_shuffle(kernel.transpose(3, 2, 0, 1), groups, axis=1)
    np.testing.assert_array_equal(
        folded.transpose(2, 3, 1, 0), fold_channel_shuffle(kernel, groups)
    )


def test_channels_that_do_not_fit_are_an_error():
    with refuses(r"12 channels and groups=5"):
        fold_channel_shuffle(jnp.zeros((3, 3, 12, 4)), 5)


@pytest.mark.parametrize("implementation", [None, "textbook", "fused"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-13), (jnp.float32, 1e-5)])
def test_attention_without_shuffle_and_a_folded_kernel_give_the_same(
    dtype, tolerance, implementation
):
    """Tolerance: sums of 9 x 16 terms of order 1, in another order."""
    with jax.enable_x64(dtype == jnp.float64):
        x, params = draw((2, 9, 7, 16), dtype)
        rng = np.random.default_rng(1)
        kernel = jnp.asarray(rng.standard_normal((3, 3, 16, 8)) / 12, dtype)
        attend = functools.partial(
            shuffle_attention, x, params, groups=GROUPS, implementation=implementation
        )
        shuffled, plain = attend(), attend(shuffle=False)
        assert plain.dtype == dtype
        chex.assert_trees_all_close(
            channel_shuffle(plain), shuffled, rtol=tolerance, atol=tolerance
        )
        folded = convolve(plain, fold_channel_shuffle(kernel))
        chex.assert_trees_all_close(
            folded, convolve(shuffled, kernel), rtol=tolerance, atol=tolerance
        )


def test_transformations():
    """Derivatives forward and backward, of vmap, and a second one, against the shuffled form's."""
    with jax.enable_x64(True):
        x, params = draw((3, 5, 4, 16), jnp.float64)
        plain = functools.partial(shuffle_attention, groups=GROUPS, shuffle=False)

        def reference(x, params):
            return channel_unshuffle(shuffle_attention(x, params, groups=GROUPS))

        def results(apply):
            def scalar(x, params):
                return jnp.sum(jnp.sin(jax.vmap(apply, (0, None))(x, params)))

            gradient = jax.grad(scalar, argnums=(0, 1))
            twice = jax.jvp(lambda x: gradient(x, params), (x,), (jnp.cos(x),))
            return jax.jvp(apply, (x, params), (jnp.cos(x), params)), twice

        chex.assert_trees_all_close(
            jax.jit(lambda: results(plain))(), results(reference), rtol=1e-10, atol=1e-10
        )


def test_with_a_window_and_half_precision():
    x, params = draw((2, 9, 7, 16), jnp.bfloat16)
    attend = functools.partial(shuffle_attention, x, params, groups=GROUPS)
    plain, shuffled = attend(window=(3, 5), shuffle=False), attend(window=(3, 5))
    assert plain.dtype == jnp.bfloat16
    np.testing.assert_array_equal(channel_shuffle(plain), shuffled)
    assert attend(shuffle=False).dtype == jnp.bfloat16
