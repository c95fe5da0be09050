"""The textbook shuffle attention against plain PyTorch, and its contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import sa_flax
from sa_flax.functional import (
    ShuffleAttentionParams,
    channel_shuffle,
    channel_unshuffle,
    group_merge,
    group_split,
    shuffle_attention,
)
from sa_flax.functional._shuffle.api import IMPLEMENTATIONS
from sa_flax.porting.torch_unet import ShuffleAttention as TorchShuffleAttention
from tests.annotations import refuses

textbook = functools.partial(shuffle_attention, implementation="textbook")

# (B, H, W, C), groups: odd sizes, one group, and the paper's 64.
SIZES = [((2, 7, 5, 12), 3), ((1, 3, 4, 8), 1), ((2, 3, 3, 256), 64), ((3, 1, 9, 16), 4)]
TORCH_KEYS = ("cweight", "cbias", "sweight", "sbias", "gn.weight", "gn.bias")


def draw(shape, groups, seed=0):
    """A map, six vectors and a cotangent in float64, as numpy arrays."""
    rng = np.random.default_rng(seed)
    k = shape[-1] // (2 * groups)
    x = rng.standard_normal(shape) * 2 + rng.standard_normal(shape[-1])
    return x, [rng.standard_normal(k) for _ in TORCH_KEYS], rng.standard_normal(shape)


def torch_results(x, vectors, cotangent, groups, dtype):
    """Output, gradient of x and of the six vectors, channels last, from the PyTorch twin."""
    layer = TorchShuffleAttention(x.shape[-1], groups).to(dtype)
    named = dict(layer.named_parameters())
    with torch.no_grad():
        for key, vector in zip(TORCH_KEYS, vectors, strict=True):
            named[key].copy_(torch.from_numpy(vector).reshape(named[key].shape))
    to_torch = lambda a: torch.from_numpy(a.transpose(0, 3, 1, 2).copy()).to(dtype)  # noqa: E731
    inputs = to_torch(x).requires_grad_()
    out = layer(inputs)
    out.backward(to_torch(cotangent))
    to_numpy = lambda t: t.detach().numpy().transpose(0, 2, 3, 1)  # noqa: E731
    gradients = [named[key].grad.numpy().reshape(-1) for key in TORCH_KEYS]
    return [to_numpy(out), to_numpy(inputs.grad), *gradients]


def jax_results(x, vectors, cotangent, groups, dtype, implementation):
    x, cotangent = jnp.asarray(x, dtype), jnp.asarray(cotangent, dtype)
    params = ShuffleAttentionParams(*(jnp.asarray(v, dtype) for v in vectors))

    @jax.jit
    def run(x, params, cotangent):
        apply = functools.partial(shuffle_attention, groups=groups, implementation=implementation)
        out, transpose = jax.vjp(apply, x, params)
        return [out, *jax.tree.leaves(transpose(cotangent))]

    return run(x, params, cotangent)


@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
@pytest.mark.parametrize(("shape", "groups"), SIZES)
def test_equals_pytorch_in_float64(shape, groups, implementation):
    drawn = draw(shape, groups)
    with jax.enable_x64(True):
        ours = jax_results(*drawn, groups, jnp.float64, implementation)
    theirs = torch_results(*drawn, groups, torch.float64)
    for name, a, b in zip(("out", "x", *TORCH_KEYS), ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
@pytest.mark.parametrize(("shape", "groups"), SIZES)
def test_equals_pytorch_in_float32(shape, groups, implementation):
    """To 1e-5 of the largest entry, or of 1: sums of some 100 terms of order 1, which may cancel,
    each rounded by 6e-8."""
    drawn = draw(shape, groups)
    ours = jax_results(*drawn, groups, jnp.float32, implementation)
    theirs = torch_results(*drawn, groups, torch.float32)
    for name, a, b in zip(("out", "x", *TORCH_KEYS), ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1), err_msg=name)


def test_a_fresh_layer_multiplies_by_sigmoid_of_one():
    layer = sa_flax.ShuffleAttention(16, groups=4)
    x = jnp.asarray(draw((2, 4, 4, 16), 4)[0], jnp.float32)
    expected = channel_shuffle(x, 2) * jax.nn.sigmoid(1.0)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-6)
    values = {name: layer.__dict__[name][...] for name in ShuffleAttentionParams._fields}
    assert {name: set(np.asarray(v).tolist()) for name, v in values.items()} == {
        "channel_weight": {0.0},
        "channel_bias": {1.0},
        "spatial_weight": {0.0},
        "spatial_bias": {1.0},
        "norm_scale": {1.0},
        "norm_bias": {0.0},
    }
    assert sum(v.size for v in values.values()) == 3 * 16 // 4


def test_numbers_of_numpy_are_numbers(jax_defaults):
    layer = sa_flax.SGE(16, groups=np.int64(4), window=(np.int64(3), 3))
    assert layer(jnp.ones((1, 4, 4, 16))).shape == (1, 4, 4, 16)
    assert all(type(size) is int for size in layer.window)


def test_shuffle_interleaves_the_halves_and_unshuffle_is_its_inverse():
    x = jnp.arange(2 * 12).reshape(2, 12)
    np.testing.assert_array_equal(channel_shuffle(x, 2)[0], [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11])
    for groups in (1, 2, 3, 4, 6, 12):
        np.testing.assert_array_equal(channel_unshuffle(channel_shuffle(x, groups), groups), x)
    with refuses(r"12 channels and groups=5"):
        channel_shuffle(x, 5)


def test_merge_is_the_inverse_of_split():
    x = jnp.arange(24)[None, None]
    first, second = group_split(x, 3)
    np.testing.assert_array_equal(first[0, 0], [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19])
    np.testing.assert_array_equal(group_merge(first, second, 3), x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_keeps_dtype_and_leading_axes(dtype):
    x, vectors, _ = draw((2, 4, 5, 8), 2)
    params = ShuffleAttentionParams(*(jnp.asarray(v, jnp.float32) for v in vectors))
    x = jnp.asarray(x, dtype)
    out = textbook(x, params, groups=2)
    assert out.dtype == dtype
    assert out.shape == x.shape
    np.testing.assert_array_equal(textbook(x[0], params, groups=2), out[0])
    np.testing.assert_array_equal(textbook(x[None], params, groups=2), out[None])


@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_a_small_signal_on_a_large_mean_survives_in_float32(implementation):
    """Mean 1000, standard deviation 0.01. The input itself is rounded to 6e-5, 0.6 % of that
    deviation, so the reference is float64 on the rounded input; statistics then agree to 1e-3,
    which the derivative of the gate (at most |x| / 4 = 250) turns into the bound on the output."""
    rng = np.random.default_rng(0)
    x = (1000 + 0.01 * rng.standard_normal((2, 16, 24, 8))).astype(np.float32)
    vectors = [rng.standard_normal(2).astype(np.float32) for _ in TORCH_KEYS]
    vectors[0] *= 1e-3
    # The group norm's epsilon would drown a variance of 1e-4: take it out.
    run = functools.partial(
        shuffle_attention, groups=2, epsilon=1e-9, implementation=implementation
    )
    params = ShuffleAttentionParams(*map(jnp.asarray, vectors))
    ours = np.asarray(run(jnp.asarray(x), params))
    with jax.enable_x64(True):
        exact = textbook(
            jnp.asarray(x, jnp.float64),
            ShuffleAttentionParams(*(jnp.asarray(v, jnp.float64) for v in vectors)),
            groups=2,
            epsilon=1e-9,
        )
    np.testing.assert_allclose(ours, exact, rtol=0, atol=0.25)
    assert np.std(np.asarray(exact)[..., 1::4]) > 10  # the gates do follow that signal


def test_the_vectors_length_says_how_many_groups_there_are():
    x, vectors, _ = draw((1, 3, 4, 24), 6)
    params = ShuffleAttentionParams(*(jnp.asarray(v, jnp.float32) for v in vectors))
    x = jnp.asarray(x, jnp.float32)
    asked = shuffle_attention(x, params, groups=6)
    np.testing.assert_array_equal(shuffle_attention(x, params), asked)
    fresh = ShuffleAttentionParams.init(None, 24)
    assert shuffle_attention(x, fresh).shape == x.shape
    with refuses(r"vectors of length 2 can't be for a map of 6 channels.*init\(None, 6\)"):
        shuffle_attention(x[..., :6], params)


def test_errors_list_what_fits():
    params = ShuffleAttentionParams(*(jnp.zeros(2) for _ in TORCH_KEYS))
    x = jnp.zeros((1, 4, 4, 12))
    with refuses(r"12 channels and groups=4; groups that fit .*: 1, 2, 3, 6"):
        shuffle_attention(x, params, groups=4)
    with refuses(r"use an even number of channels"):
        sa_flax.ShuffleAttention(7, groups=1)
    with refuses(r"channel_weight has shape \(2,\).*needs \(1,\)"):
        shuffle_attention(x, params, groups=6)
    with refuses(r"implementation must be .*'textbok'"):
        shuffle_attention(x, params, groups=3, implementation="textbok")
