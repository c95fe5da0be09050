"""Every attention, no promotion left to JAX, over explicit mesh axes, in odd shapes, exported."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sa_flax
from tests.slow import some_slow

KINDS = sa_flax.list_attentions()
# A mask with groups, one of two branches, and affinities of both sorts.
SOME = some_slow(KINDS, "shuffle", "dual", "non_local", "danet")
AFFINITIES = ("non_local", "self_attention", "danet")


@functools.cache
def layer_of(kind: str, param_dtype: str = "float32"):
    rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))  # quick to compile
    layer = sa_flax.make_attention(kind, 8, param_dtype=param_dtype, rngs=rngs)
    rng = np.random.default_rng(0)
    for _, variable in nnx.to_flat_state(nnx.state(layer)):  # away from starts at 0
        variable[...] += jnp.asarray(0.3 * rng.normal(size=variable.shape), variable.dtype)
    return layer


def map_of(*shape: int, dtype="float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def with_gradients(layer):
    """The result, and the gradients of parameters and map, as one function of (state, map)."""
    graphdef, state = nnx.split(layer)

    def run(state, x):
        out, transpose = jax.vjp(lambda s, x: nnx.merge(graphdef, s)(x), state, x)
        return out, *transpose(jnp.ones_like(out))

    return run, state


@pytest.mark.parametrize("kind", KINDS)
class TestPromotion:
    @pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_no_promotion_is_left_to_jax(self, kind, dtype, param_dtype):
        """The map's dtype comes back, whatever the parameters have."""
        run, state = with_gradients(layer_of(kind, param_dtype))
        x = jax.ShapeDtypeStruct((2, 4, 3, 8), dtype)
        out, of_state, of_map = jax.eval_shape(run, state, x)
        assert (out.dtype, of_map.dtype) == (x.dtype, x.dtype)
        assert {g.dtype for g in jax.tree.leaves(of_state)} == {jnp.dtype(param_dtype)}
        assert jax.eval_shape(layer_of(kind).attention_maps, x)

    def test_nor_in_what_is_compiled_later(self, kind):
        """Derivatives that are lowered by rules of their own are traced only now."""
        run, state = with_gradients(layer_of(kind))
        jax.jit(run).lower(state, jax.ShapeDtypeStruct((1, 2, 3, 8), "bfloat16"))

    def test_nor_with_a_window(self, kind):
        layer = nnx.clone(layer_of(kind))
        if not hasattr(layer, "window"):
            pytest.skip("it pools nothing")
        layer.window = (2, 3)
        run, state = with_gradients(layer)
        x = jax.ShapeDtypeStruct((2, 4, 5, 8), "bfloat16")
        assert jax.eval_shape(run, state, x)[0].dtype == x.dtype


@pytest.mark.parametrize("affinity", ["gaussian", "dot_product", "concatenation"])
def test_no_promotion_is_left_to_jax_in_other_affinities(affinity):
    layer = sa_flax.NonLocal(8, affinity=affinity, subsample=2, rngs=nnx.Rngs(0))
    run, state = with_gradients(layer)
    jax.eval_shape(run, state, jax.ShapeDtypeStruct((2, 4, 3, 8), "bfloat16"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_no_promotion_is_left_to_jax_in_the_network(kind, dtype):
    def build(rngs):
        return sa_flax.AttentionUNet(width=8, levels=2, attention=kind, attend="both", rngs=rngs)

    run, state = with_gradients(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((1, 6, 5, 3), dtype)
    assert jax.eval_shape(run, state, x)[0].dtype == x.dtype


@pytest.mark.parametrize("kind", SOME)
def test_any_number_of_leading_axes_and_none_to_work_on(kind):
    layer = jax.jit(layer_of(kind).__call__)
    x = map_of(2, 1, 2, 3, 4, 8)  # rank 6
    np.testing.assert_allclose(layer(x), layer(x.reshape(4, 3, 4, 8)).reshape(x.shape), atol=1e-5)
    run, state = with_gradients(layer_of(kind))
    out, of_state, of_map = run(state, x[:0, 0, 0])
    assert out.shape == of_map.shape == (0, 3, 4, 8)
    for gradient in jax.tree.leaves(of_state):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
@pytest.mark.parametrize("kind", SOME)
def test_explicit_mesh_axes(kind):
    """Batch and height, or channels, split over explicit axes: the result lies as the map does."""
    mesh = jax.make_mesh((2, 4), ("b", "h"), axis_types=(AxisType.Explicit,) * 2)
    run, state = with_gradients(layer_of(kind))
    x = map_of(2, 4, 3, 8)
    expected = jax.jit(run)(state, x)
    # In turn in the mesh's context and out of it, which JAX treats differently.
    for spec in (PartitionSpec("b", "h"), PartitionSpec(None, None, None, "h")):
        placed = jax.device_put(x, NamedSharding(mesh, spec))
        if spec[0] is None:
            got = jax.jit(run)(state, placed)
        else:
            with jax.set_mesh(mesh):
                got = jax.jit(run)(state, placed)
        assert got[0].sharding.is_equivalent_to(placed.sharding, 4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, expected)


@pytest.mark.parametrize("kind", SOME)
def test_exports_for_any_size(kind):
    """One export for maps of any batch, height and width; affinities go through it in blocks."""
    layer = layer_of(kind)
    sizes = jax.export.symbolic_shape("b, h, w")
    shape = jax.ShapeDtypeStruct((*sizes, 8), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: layer(x)))(shape)
    for x in (map_of(1, 3, 5, 8), map_of(2, 9, 8, 8)):
        np.testing.assert_allclose(jax.jit(exported.call)(x), layer(x), rtol=1e-5, atol=1e-5)
