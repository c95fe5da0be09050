"""Initial numbers: distributed as JAX's own, the same wherever they are drawn, and quick to get."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers as jax_initializers

import sa_flax
from sa_flax.functional.initializers import filled, lecun_normal, variance_scaling, zeros

# 36,864 numbers: more than two pieces.
SHAPE = (3, 3, 32, 128)
VARIANTS = [
    (1.0, "fan_in", "truncated_normal"),
    (2.0, "fan_out", "normal"),
    (0.02, "fan_in", "truncated_normal"),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_distributed_as_those_of_jax(variant):
    ours = np.asarray(variance_scaling(*variant)(jax.random.key(0), SHAPE))
    theirs = np.asarray(jax_initializers.variance_scaling(*variant)(jax.random.key(0), SHAPE))
    scale = theirs.std()
    # Standard errors for n numbers: 1 / sqrt(n) of the mean, 1 / sqrt(2 n) of the deviation.
    assert abs(ours.mean()) < 4 * scale / np.sqrt(ours.size)
    assert abs(ours.std() / scale - 1) < 6 / np.sqrt(2 * ours.size)
    ranks = np.linspace(0.001, 0.999, 99)
    np.testing.assert_allclose(
        np.quantile(ours, ranks), np.quantile(theirs, ranks), atol=0.12 * scale
    )
    if variant[2] == "truncated_normal":
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=1e-3)


def test_pieces_are_not_the_same_numbers():
    drawn = np.asarray(lecun_normal(jax.random.key(0), SHAPE)).reshape(-1)
    assert np.unique(drawn).size > 0.99 * drawn.size
    again = np.asarray(lecun_normal(jax.random.key(0), SHAPE)).reshape(-1)
    np.testing.assert_array_equal(drawn, again)
    other = np.asarray(lecun_normal(jax.random.key(1), SHAPE)).reshape(-1)
    assert np.mean(drawn == other) < 0.01
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 4 / np.sqrt(drawn.size)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_same_inside_other_functions(dtype):
    key = jax.random.key(3)
    outside = lecun_normal(key, SHAPE, dtype)
    inside = jax.jit(lambda key: lecun_normal(key, SHAPE, dtype))(key)
    closed_over = jax.jit(lambda: lecun_normal(key, SHAPE, dtype))()
    keys = jax.random.split(key, 2)
    by_key = jax.vmap(lambda key: lecun_normal(key, SHAPE, dtype))(keys)
    assert outside.dtype == inside.dtype == by_key.dtype == dtype
    # A fused multiplication may round the other way.
    tolerance = 2 * float(jnp.finfo(dtype).eps) * float(jnp.abs(outside).max())
    for drawn in (inside, closed_over):
        np.testing.assert_allclose(
            drawn.astype(np.float32), outside.astype(np.float32), rtol=0, atol=tolerance
        )
    np.testing.assert_allclose(
        by_key[1].astype(np.float32),
        lecun_normal(keys[1], SHAPE, dtype).astype(np.float32),
        rtol=0,
        atol=tolerance,
    )
    shaped = jax.eval_shape(lambda key: lecun_normal(key, SHAPE, dtype), key)
    assert (shaped.shape, shaped.dtype) == (SHAPE, dtype)


@pytest.mark.parametrize("make", [jax.random.PRNGKey, lambda n: jax.random.key(n, impl="rbg")])
def test_every_kind_of_key(make):
    assert np.std(np.asarray(lecun_normal(make(0), (4, 4)))) > 0


def test_what_is_filled():
    chosen = filled((2, 3), 1.0, jnp.bfloat16)
    assert (chosen.dtype, chosen.shape) == (jnp.bfloat16, (2, 3))
    np.testing.assert_array_equal(chosen.astype(np.float32), 1.0)
    assert zeros(None, (0, 2)).shape == (0, 2)
    assert lecun_normal(jax.random.key(0), (0, 2)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"at least two axes.*\(3,\)"):
        lecun_normal(jax.random.key(0), (3,))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention_unet", {"width": 7, "levels": 4, "attention": "cbam", "attend": "both"}),
        ("sa_resnet50", {"blocks": (1, 1, 1, 1), "width": 6, "groups": 3, "num_classes": 9}),
        ("dncnn", {"width": 11, "depth": 4}),
    ],
)
def test_making_a_network_compiles_for_no_shape(name, options, caplog):
    """Sizes that no other test has: each of the initialisers of JAX would compile for each."""
    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles():
        model = sa_flax.create_model(name, rngs=nnx.Rngs(0), **options)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]
    assert len(nnx.to_flat_state(nnx.state(model))) > 10
    # The pieces of two distributions, and nnx's own counting of keys.
    assert len(compiled) <= 6, "\n".join(line[:100] for line in compiled)
