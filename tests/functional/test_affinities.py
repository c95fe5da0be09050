"""Affinities: blockwise equals whole, every kind equals PyTorch, and the matrix is never there."""

import functools
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import sa_flax
from sa_flax import functional as F
from sa_flax.functional.affinity_params import AFFINITIES
from sa_flax.porting import torch_unet as twins
from tests.annotations import refuses

RNG = np.random.default_rng(0)
C, B = 6, 4


class TestAttend:
    @pytest.mark.parametrize("block_size", [1, 3, 10, 11])
    @pytest.mark.parametrize(
        ("options", "weights"),
        [
            ({}, jax.nn.softmax),
            ({"weigh": jax.nn.relu, "normalise": False}, jax.nn.relu),
            (
                {"weigh": lambda scores: 1 + scores**2},
                lambda scores: (1 + scores**2) / (1 + scores**2).sum(-1, keepdims=True),
            ),
        ],
        ids=["softmax", "relu", "normalised squares"],
    )
    def test_blocks_change_neither_output_nor_gradients(self, block_size, options, weights):
        with jax.enable_x64(True):
            queries, keys, values, probe = (
                jnp.asarray(RNG.normal(size=shape))
                for shape in ((2, 11, 3), (2, 7, 3), (2, 7, 5), (2, 11, 5))
            )

            def whole(queries, keys, values):
                return weights(queries @ keys.swapaxes(-1, -2)) @ values

            blocks = functools.partial(F.attend, **options, block_size=block_size)
            expected, pull_expected = jax.vjp(whole, queries, keys, values)
            got, pull_got = jax.vjp(blocks, queries, keys, values)
            # Sums of 11 products of order 1 to 10, in another order.
            chex.assert_trees_all_close(got, expected, atol=1e-13)
            chex.assert_trees_all_close(pull_got(probe), pull_expected(probe), atol=1e-13)

    def test_works_without_leading_axes_and_under_vmap(self):
        queries, keys, values = (jnp.asarray(RNG.normal(size=(2, 3, 5, 4))) for _ in range(3))
        attend = functools.partial(F.attend, block_size=2)
        together = attend(queries, keys, values)
        np.testing.assert_allclose(
            attend(queries[1, 2], keys[1, 2], values[1, 2]), together[1, 2], rtol=1e-5, atol=1e-6
        )
        chex.assert_trees_all_close(
            jax.vmap(jax.vmap(attend))(queries, keys, values), together, rtol=1e-5, atol=1e-6
        )

    def test_large_scores_do_not_overflow(self):
        queries = jnp.full((4, 2), 1e3)
        keys = jnp.asarray([[1e3, 1e3], [-1e3, -1e3]])
        out = F.attend(queries, keys, jnp.asarray([[1.0], [2.0]]), block_size=2)
        np.testing.assert_array_equal(out, np.ones((4, 1)))

    def test_more_positions_than_float16_counts(self):
        keys = jnp.zeros((70_000, 2), jnp.float16)
        out = F.attend(keys[:3], keys, jnp.full((70_000, 1), 0.5, jnp.float16))
        assert out.dtype == jnp.float16
        np.testing.assert_array_equal(out, np.full((3, 1), 0.5))

    def test_shapes_that_do_not_fit_are_explained(self):
        a, b = jnp.zeros((4, 3)), jnp.zeros((5, 2))
        with refuses(r"\(\.\.\., N, D\).*got \(4, 3\), \(5, 2\)"):
            F.attend(a, b, b)
        with refuses(r"block_size .* at least 1; got 0"):
            F.attend(a, a, a, block_size=0)


def non_local_case(affinity: str, subsample: int):
    """A twin with random weights, the same parameters as a NonLocalParams, and names in between."""
    torch.manual_seed(0)
    twin = twins.NonLocal(C, B, affinity, subsample).double()
    names = {}
    for module in ("value", "out", "query", "key"):
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            if f"{module}.{theirs}" in dict(twin.named_parameters()):
                names[f"{module}_{ours}"] = f"{module}.{theirs}"
    if affinity == "concatenation":
        names["pair_kernel"] = "pair.weight"
    return twin, names


def to_ours(name: str, array: np.ndarray) -> np.ndarray:
    if name == "pair_kernel":
        return array.reshape(-1)
    return array[:, :, 0, 0].T if name.endswith("kernel") else array


@pytest.mark.parametrize("subsample", [1, 2])
@pytest.mark.parametrize("affinity", AFFINITIES)
def test_every_non_local_affinity_agrees_with_pytorch(affinity, subsample):
    twin, names = non_local_case(affinity, subsample)
    x, probe = RNG.normal(size=(2, 2, 5, 3, C))  # odd: the last blocks of a subsampling are smaller
    there = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    out = twin(there)
    (out * torch.tensor(probe.transpose(0, 3, 1, 2))).sum().backward()
    values = {n: to_ours(n, twin.get_parameter(t).detach().numpy()) for n, t in names.items()}
    with jax.enable_x64(True):
        params = F.NonLocalParams(**jax.tree.map(jnp.asarray, values))
        apply = functools.partial(F.non_local, affinity=affinity, subsample=subsample, block_size=4)
        y, pull_back = jax.vjp(jax.jit(apply), jnp.asarray(x), params)
        of_map, gradients = pull_back(jnp.asarray(probe))
        y, of_map = np.asarray(y), np.asarray(of_map)
        gradients = jax.tree.map(np.asarray, gradients)
    np.testing.assert_allclose(y, out.detach().numpy().transpose(0, 2, 3, 1), atol=1e-13)
    np.testing.assert_allclose(of_map, there.grad.numpy().transpose(0, 2, 3, 1), atol=1e-12)
    for name, there_name in names.items():
        expected = to_ours(name, twin.get_parameter(there_name).grad.numpy())
        assert np.abs(expected).max() > 1e-6, name
        np.testing.assert_allclose(getattr(gradients, name), expected, atol=1e-12, err_msg=name)


def test_weights_that_may_be_zero_have_gradients_in_blocks_of_any_size():
    keys = jax.random.split(jax.random.key(0), 3)
    parts = [jnp.abs(jax.random.normal(k, (n, 3))) for k, n in zip(keys, (5, 4, 4), strict=True)]

    def gradients(block_size):
        def total(q, k, v):
            return jnp.sum(F.attend(q, k, v, weigh=jax.nn.relu, block_size=block_size) ** 2)

        return jax.grad(total, (0, 1, 2))(*parts)

    whole = gradients(5)
    for block_size in (1, 2, 3, 4):
        chex.assert_trees_all_close(gradients(block_size), whole, atol=1e-5)


def test_the_dot_product_is_linear_in_the_positions():
    """Its matrix is channels by channels, so four times the positions cost four times as much."""
    layer = sa_flax.NonLocal(C, affinity="dot_product", rngs=nnx.Rngs(0))
    flops = [
        jax.jit(layer.__call__).lower(jnp.zeros((size, size, C))).cost_analysis()["flops"]
        for size in (16, 32)
    ]
    assert flops[1] / flops[0] == pytest.approx(4, rel=0.02)


def test_a_bias_of_the_keys_cancels_in_a_softmax():
    queries, keys, values = (jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32) for _ in range(3))
    bias = jnp.asarray([1.0, -2.0, 0.5])
    np.testing.assert_allclose(
        F.attend(queries, keys + bias[None], values), F.attend(queries, keys, values), atol=1e-5
    )


def test_channel_attention_is_a_mean_of_channels():
    x = RNG.normal(size=(2, 3, 4, 3)).astype(np.float32)
    y = F.channel_attention(jnp.asarray(x))
    for b in range(2):
        flat = x[b].reshape(12, 3).astype(np.float64)
        scores = np.exp(flat.T @ flat / 12)
        weights = scores / scores.sum(1, keepdims=True)
        np.testing.assert_allclose(y[b].reshape(12, 3), flat @ weights.T, rtol=1e-5, atol=1e-5)


def test_wrong_options_and_parameters_are_explained():
    _, names = non_local_case("embedded_gaussian", 1)
    shapes = {"kernel": (C, C), "bias": (C,)}
    params = F.NonLocalParams(**{n: jnp.zeros(shapes[n[n.index("_") + 1 :]]) for n in names})
    x = jnp.zeros((4, 4, C))
    assert F.non_local(x, params).shape == x.shape
    with refuses(r"affinity must be one of embedded_gaussian, .*'euclid'"):
        F.non_local(x, params, affinity="euclid")
    with refuses("subsample must be an integer of at least 1; got 0"):
        F.non_local(x, params, subsample=0)
    with refuses(r"\(concatenation\) needs pair_kernel.*got None"):
        F.non_local(x, params, affinity="concatenation")
    with refuses(r"value_kernel has shape \(6, 6\).*8 channels.*\(8, 6\)"):
        F.non_local(jnp.zeros((4, 4, 8)), params)


# What a 256 x 256 map of 64 channels may take, forward and backward. The matrix alone: 17 GB.
LIMIT = 2 * 10**9
BIG = """
import sys
import jax, jax.numpy as jnp
from flax import nnx
import sa_flax

layer = sa_flax.make_attention(sys.argv[1], 64, rngs=nnx.Rngs(0))
graphdef, state = nnx.split(layer)
state = jax.tree.map(lambda p: p + 0.1, state)  # away from zero starts: nothing may be skipped
x = jax.random.normal(jax.random.key(0), (1, 256, 256, 64))

def loss(state, x):
    return jnp.sum(jnp.square(nnx.merge(graphdef, state)(x)))

results = jax.block_until_ready(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(state, x))
assert all(bool(jnp.isfinite(result).all()) for result in jax.tree.leaves(results))
# Not ru_maxrss: that counts what the parent process held when it started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(1024 * int(status["VmHWM"].split()[0]))
"""


def bytes_taken(kind: str) -> int:
    """Most memory that a process of its own had while it ran the layer forward and backward."""
    as_users_run_it = {
        **os.environ,
        "XLA_FLAGS": "",
    }  # not with the tests' options for the compiler
    done = subprocess.run(
        [sys.executable, "-c", BIG, kind],
        env=as_users_run_it,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["non_local", "self_attention", "danet"])
def test_big_maps_are_planned_within_two_gigabytes(kind):
    graphdef, state = nnx.split(sa_flax.make_attention(kind, 64, rngs=nnx.Rngs(0)))

    def loss(state, x):
        return jnp.sum(jnp.square(nnx.merge(graphdef, state)(x)))

    x = jax.ShapeDtypeStruct((1, 256, 256, 64), jnp.float32)
    plan = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(state, x).compile()
    sizes = plan.memory_analysis()
    needed = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    assert x.size * 4 < needed < LIMIT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("kind", ["non_local", "self_attention", "danet"])
def test_big_maps_run_within_two_gigabytes(kind):
    resident = bytes_taken(kind)
    assert resident < LIMIT
