"""The Pallas kernel, interpreted on the CPU, against the textbook form."""

import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from sa_flax.functional import ShuffleAttentionParams, pallas_shuffle_attention, shuffle_attention

textbook = functools.partial(shuffle_attention, groups=2, implementation="textbook")
kernel = functools.partial(shuffle_attention, groups=2, implementation="pallas")


def draw(shape=(2, 5, 6, 16), dtype=jnp.float32):
    rng = np.random.default_rng(0)
    k = shape[-1] // 4
    vectors = (jnp.asarray(rng.standard_normal(k), jnp.float32) for _ in range(6))
    return jnp.asarray(rng.standard_normal(shape) + 2, dtype), ShuffleAttentionParams(*vectors)


def test_blocks_of_channels_give_the_same(monkeypatch):
    """Fast memory for two pairs of channels of eight, so that each picture takes four programs."""
    primals = draw()
    pair = 2 * 30 * (2 * 4 + 2 * 4)
    monkeypatch.setattr(pallas_shuffle_attention, "_FAST_MEMORY", 2 * pair)
    assert pallas_shuffle_attention._channels_per_program(primals[0]) == 2
    chex.assert_trees_all_close(kernel(*primals), textbook(*primals), rtol=1e-5, atol=1e-5)


def test_gradient_forward_mode_and_vmap():
    x, params = draw()
    loss = lambda f: lambda x, p: jnp.sum(jnp.sin(f(x, p)))  # noqa: E731
    make = lambda f: (  # noqa: E731
        jax.grad(loss(f), argnums=(0, 1))(x, params),
        jax.jvp(f, (x, params), (x, params)),
        jax.vmap(jax.grad(loss(f)), in_axes=(0, None))(jnp.stack([x, 2 * x]), params),
    )
    expected, got = (jax.jit(lambda f=f: make(f))() for f in (textbook, kernel))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16():
    x, params = draw(dtype=jnp.bfloat16)
    out = kernel(x, params)
    assert out.dtype == jnp.bfloat16
    exact = textbook(x.astype(jnp.float32), params)
    chex.assert_trees_all_close(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


def test_says_what_to_do_where_the_map_does_not_fit():
    x, params = draw()
    large = jax.ShapeDtypeStruct((1, 2048, 2048, 16), x.dtype)
    with pytest.raises(ValueError, match=r"2048 x 2048 float32 .*implementation='fused'"):
        jax.eval_shape(kernel, large, params)


def test_lowers_for_tpus_and_refuses_gpus(monkeypatch):
    x, params = draw((2, 8, 8, 16))
    jax.export.export(jax.jit(kernel), platforms=("tpu",))(x, params)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.clear_caches()
    with pytest.raises(NotImplementedError, match=r"Use implementation='fused'"):
        kernel(x, params)
