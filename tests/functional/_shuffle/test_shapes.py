"""The maps that the benchmark measures: at full size their shapes, few pixels as numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.shapes import SHUFFLE_ATTENTION
from sa_flax.functional import ShuffleAttentionParams, shuffle_attention
from sa_flax.functional._shuffle.api import IMPLEMENTATIONS

SHAPES = [pytest.param(shape, id=name) for name, shape in SHUFFLE_ATTENTION.items()]


def value_and_gradients(implementation, groups):
    apply = functools.partial(shuffle_attention, groups=groups, implementation=implementation)

    def run(x, params, g):
        out, transpose = jax.vjp(apply, x, params)
        return out, transpose(g)

    return run


@pytest.mark.parametrize("implementation", [None, *IMPLEMENTATIONS])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_dtypes_at_full_size(shape, implementation):
    x = jax.ShapeDtypeStruct(shape.map, jnp.bfloat16)
    k = shape.features // (2 * shape.groups)
    params = ShuffleAttentionParams(*[jax.ShapeDtypeStruct((k,), jnp.float32)] * 6)
    run = value_and_gradients(implementation, shape.groups)
    out, (of_map, of_params) = jax.eval_shape(run, x, params, x)
    assert (out.shape, out.dtype) == (of_map.shape, of_map.dtype) == (x.shape, x.dtype)
    assert of_params == params


@pytest.mark.parametrize("shape", SHAPES)
def test_every_implementation_gives_the_same(shape):
    shape = shape.reduced()
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, g = (jnp.asarray(rng.standard_normal(shape.map) + 1) for _ in range(2))
        k = shape.features // (2 * shape.groups)
        params = ShuffleAttentionParams(*(jnp.asarray(rng.standard_normal(k)) for _ in range(6)))
        first, *others = (
            jax.jit(value_and_gradients(name, shape.groups))(x, params, g)
            for name in IMPLEMENTATIONS
        )
        for other in others:
            # Sums of 126 terms of order 1, some cancelling.
            chex.assert_trees_all_close(other, first, rtol=1e-10, atol=1e-10)
