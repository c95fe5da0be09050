"""The fused shuffle attention: the same as the textbook form under every transformation."""

import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sa_flax.functional import ShuffleAttentionParams, shuffle_attention
from sa_flax.functional._shuffle import passes

GROUPS = 2
textbook = functools.partial(shuffle_attention, groups=GROUPS, implementation="textbook")
fused = functools.partial(shuffle_attention, groups=GROUPS, implementation="fused")


def draw(shape=(2, 5, 11, 8), dtype=None, seed=0):
    """(x, params), and tangents of both."""
    rng = np.random.default_rng(seed)
    k = shape[-1] // (2 * GROUPS)

    def one():
        vectors = (jnp.asarray(rng.standard_normal(k), dtype) for _ in range(6))
        return jnp.asarray(rng.standard_normal(shape), dtype), ShuffleAttentionParams(*vectors)

    return one(), one()


@pytest.fixture(autouse=True)
def _float64():
    """Both forms in float64: what differs is then the mathematics, not the rounding."""
    with jax.enable_x64(True):
        yield


def assert_same(make):
    """`make(function)` gives the same for both forms, to 1e-10 of the scale of the results."""
    expected = jax.jit(lambda: make(textbook))()
    chex.assert_trees_all_close(jax.jit(lambda: make(fused))(), expected, rtol=1e-10, atol=1e-10)


def scalar(function):
    return lambda *args: jnp.sum(jnp.sin(function(*args)))


def test_is_what_runs_unless_another_is_named():
    primals, _ = draw()
    text = str(jax.make_jaxpr(functools.partial(shuffle_attention, groups=GROUPS))(*primals))
    assert text == str(jax.make_jaxpr(fused)(*primals))
    assert text != str(jax.make_jaxpr(textbook)(*primals))


@pytest.mark.parametrize(
    "shape", [(2, 5, 11, 8), (1, 1, 1, 4), (3, 4, 3, 12), (1, 2, 37, 4), (5, 7, 8), (2, 1, 4, 4, 4)]
)
def test_value_and_gradient(shape):
    primals, _ = draw(shape)
    assert_same(lambda f: jax.value_and_grad(scalar(f), argnums=(0, 1))(*primals))


def test_without_jit():
    primals, _ = draw()
    chex.assert_trees_all_close(fused(*primals), textbook(*primals), rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(
        jax.grad(scalar(fused))(*primals), jax.grad(scalar(textbook))(*primals), rtol=1e-10
    )


def test_the_platforms_without_cpu_tuning_compute_the_same():
    (x, params), (g, _) = draw()
    static = {"groups": GROUPS, "epsilon": 1e-5, "shuffle": True}
    tuned, plain = (
        jax.jit(functools.partial(passes.forward, **static, tuned=tuned))(x, *params)
        for tuned in (True, False)
    )
    chex.assert_trees_all_close(tuned, plain, rtol=1e-12, atol=1e-12)
    tuned, plain = (
        jax.jit(functools.partial(passes.backward, **static, tuned=tuned))(
            x, *plain[1:], *params, g
        )
        for tuned in (True, False)
    )
    chex.assert_trees_all_close(tuned, plain, rtol=1e-11, atol=1e-11)


def test_forward_mode():
    primals, tangents = draw()
    assert_same(lambda f: jax.jvp(f, primals, tangents))


def test_linearize():
    primals, tangents = draw()
    assert_same(lambda f: jax.linearize(f, *primals)[1](*tangents))


def test_gradient_of_gradient():
    primals, _ = draw()

    def make(function):
        gradient = jax.grad(scalar(function), argnums=(0, 1))
        squares = lambda *args: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient(*args)))  # noqa: E731
        return jax.grad(squares, argnums=(0, 1))(*primals)

    assert_same(make)


def test_hessian_vector_products():
    primals, tangents = draw()
    assert_same(lambda f: jax.jvp(jax.grad(scalar(f), argnums=(0, 1)), primals, tangents))
    assert_same(
        lambda f: jax.grad(lambda *args: jax.jvp(scalar(f), args, tangents)[1], (0, 1))(*primals)
    )


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (3, 0)])
def test_vmap_of_value_and_gradient(axes):
    (x, params), _ = draw()
    several = lambda a, axis: jnp.stack([a, 2 * a, a + 1], axis) if axis is not None else a  # noqa: E731
    x = several(x, axes[0])
    params = jax.tree.map(lambda v: several(v, axes[1]), params)
    assert_same(
        lambda f: jax.vmap(jax.value_and_grad(scalar(f), argnums=(0, 1)), in_axes=axes)(x, params)
    )


def test_gradient_of_vmap_and_vmap_of_forward_mode():
    (x, params), tangents = draw()
    xs = jnp.stack([x, 2 * x])
    assert_same(lambda f: jax.grad(lambda p: scalar(jax.vmap(f, (0, None)))(xs, p))(params))
    assert_same(lambda f: jax.vmap(lambda x: jax.jvp(f, (x, params), tangents))(xs))


def test_checkpoint_and_scan():
    (x, params), _ = draw()

    def repeated(function):
        body = jax.checkpoint(lambda x, _: (function(x, params), None))
        return lambda x: jnp.sum(jnp.sin(jax.lax.scan(body, x, None, length=3)[0]))

    assert_same(lambda f: jax.value_and_grad(repeated(f))(x))


@pytest.mark.parametrize(
    "spec", [PartitionSpec("d"), PartitionSpec(None, "d"), PartitionSpec(None, None, "d")]
)
def test_sharded_batch_height_and_width(spec):
    if jax.device_count() < 2:
        pytest.skip("one device only")
    (x, params), (g, _) = draw((4, 8, 6, 8))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    where = NamedSharding(mesh, spec)

    def run(function):
        @functools.partial(jax.jit, out_shardings=(where, where, None))
        def both(x, params, g):
            out, transpose = jax.vjp(function, x, params)
            return out, *transpose(g)

        return both(jax.device_put(x, where), params, jax.device_put(g, where))

    got = run(fused)
    out, transpose = jax.vjp(textbook, x, params)
    chex.assert_trees_all_close(got, (out, *transpose(g)), rtol=1e-10, atol=1e-10)
    assert got[0].sharding.is_equivalent_to(where, 4)


def test_inside_shard_map_gradients_of_parameters_are_summed_over_devices():
    if jax.device_count() < 2:
        pytest.skip("one device only")
    (x, params), _ = draw((4, 4, 6, 8))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec("d"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    def loss(x, params):
        return jax.lax.psum(scalar(fused)(x, params), "d")

    got = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, params)
    expected = jax.jit(jax.value_and_grad(scalar(textbook), argnums=(0, 1)))(x, params)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-10)


def test_exports_for_every_platform_and_any_size():
    (x, params), _ = draw((1, 4, 6, 8))
    sizes = jax.export.symbolic_shape("b, h, w")
    shapes = jax.ShapeDtypeStruct((*sizes, 8), x.dtype), params
    exported = jax.export.export(jax.jit(fused), platforms=("cpu", "cuda", "tpu"))(*shapes)
    chex.assert_trees_all_close(exported.call(x, params), textbook(x, params), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_has_float32_statistics(dtype):
    """Inputs as given; outputs within one rounding of float64's, in the half's own units."""
    (x, params), (g, _) = draw((2, 32, 40, 8), jnp.float32)
    x, g = (x + 3).astype(dtype), g.astype(dtype)
    out, transpose = jax.vjp(fused, x, params)
    gradient, vectors = transpose(g)
    assert (out.dtype, gradient.dtype) == (dtype, dtype)
    assert all(v.dtype == jnp.float32 for v in vectors)
    wide = functools.partial(jax.tree.map, lambda a: a.astype(jnp.float64))
    exact, transpose = jax.vjp(textbook, *wide((x, params)))
    exact_gradient, exact_vectors = transpose(wide(g))
    unit = float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(wide(out), exact, rtol=0.51 * unit, atol=1e-6)
    chex.assert_trees_all_close(wide(gradient), exact_gradient, rtol=0.51 * unit, atol=1e-5)
    chex.assert_trees_all_close(wide(vectors), exact_vectors, rtol=1e-5, atol=1e-4)


def test_an_infinite_cotangent_stays_in_its_channel():
    (x, params), _ = draw()
    g = jnp.zeros_like(x).at[0, 0, 0, 2].set(jnp.inf)  # shuffled channel 2: channel 1
    gradient = jax.jit(lambda: jax.vjp(fused, x, params)[1](g)[0])()
    touched = ~np.isfinite(gradient).all(axis=(0, 1, 2))
    assert touched.tolist() == [False, True] + [False] * 6


def test_a_channel_with_one_outlier_keeps_its_variance():
    """One pixel 1e4 away, where the pivot is taken: in float32, against float64."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 16, 4)).astype(np.float32)
    x[0, 0, 0] = 1e4
    statistics = passes.moments(jnp.asarray(x), tuned=True)
    assert statistics.variance.dtype == jnp.float32
    np.testing.assert_allclose(
        statistics.variance[0], x.astype(np.float64).var(axis=(0, 1, 2)), rtol=1e-5
    )


def test_keeps_x_and_channel_statistics_only():
    shape = (2, 32, 32, 16)
    (x, params), _ = draw(shape, jnp.float32)
    _, transpose = jax.vjp(fused, x, params)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(transpose))
    assert kept <= 1.01 * x.nbytes
    _, transpose = jax.vjp(textbook, x, params)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(transpose)) > 2 * x.nbytes
