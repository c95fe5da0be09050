"""What is particular to each mask; what all attentions share is in the contract test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sa_flax import functional as F
from sa_flax.functional import masks
from tests.annotations import refuses

RNG = np.random.default_rng(0)
shuffle_attention = jax.jit(F.shuffle_attention, static_argnames=("groups", "epsilon"))


def instance_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    """Each channel of each picture by itself, in float64."""
    out = np.empty(x.shape)
    for b, c in np.ndindex(x.shape[0], x.shape[-1]):
        channel = x[b, ..., c].astype(np.float64)
        standard = (channel - channel.mean()) / np.sqrt(channel.var() + epsilon)
        out[b, ..., c] = scale[c] * standard + bias[c]
    return out


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.sampled_from([(1, 1), (1, 3), (4, 1), (2, 3)]),
    mean=st.sampled_from([0.0, -2.0, 1000.0]),
    spread=st.sampled_from([0.01, 1.0, 50.0]),
    seed=st.integers(0, 2**16),
)
def test_the_group_norm_of_shuffle_attention_is_instance_norm(sizes, mean, spread, seed):
    """The paper's GroupNorm(k, k) has as many groups as channels: nothing is shared within one."""
    groups, k = sizes
    rng = np.random.default_rng(seed)
    half = groups * k
    x = (mean + spread * rng.normal(size=(2, 4, 5, 2 * half))).astype(np.float32)
    vectors = {
        name: rng.normal(size=k).astype(np.float32) for name in F.ShuffleAttentionParams._fields
    }
    out = shuffle_attention(
        jnp.asarray(x), F.ShuffleAttentionParams(**vectors), groups=groups, epsilon=1e-5
    )
    got = F.group_split(F.channel_unshuffle(out, 2), groups)[1]

    tiled = {name: np.tile(vector, groups).astype(np.float64) for name, vector in vectors.items()}
    x1 = x.reshape(2, 4, 5, groups, 2, k)[..., 1, :].reshape(2, 4, 5, half)
    normal = instance_norm(x1, tiled["norm_scale"], tiled["norm_bias"], 1e-5)
    logits = tiled["spatial_weight"] * normal + tiled["spatial_bias"]
    expected = x1 / (1 + np.exp(-logits))
    # About one value of the channel, float32 keeps the norm: a few units of a logit near 10 or so.
    np.testing.assert_allclose(got, expected, rtol=3e-5, atol=3e-5 * spread)


@pytest.mark.parametrize(
    ("features", "size"), [(1, 1), (16, 3), (32, 3), (64, 3), (127, 3), (128, 5), (256, 5)]
)
def test_eca_sees_as_many_channels_as_the_paper_says(features, size):
    # (log2(C) + 1) / 2, rounded down and, where that is even, up to the next odd number.
    assert F.eca_kernel_size(features) == size


def test_eca_gates_a_channel_by_its_neighbours_in_order():
    means = np.array([1.0, 10.0, 100.0, 1000.0], np.float32)
    x = jnp.broadcast_to(jnp.asarray(means), (2, 2, 4))
    y = F.eca(x, F.ECAParams(jnp.asarray([1e-3, 2e-3, -3e-3])))
    before, after = np.append(0, means[:-1]), np.append(means[1:], 0)
    logits = 1e-3 * before + 2e-3 * means - 3e-3 * after
    np.testing.assert_allclose(y[0, 0], means / (1 + np.exp(-logits)), rtol=1e-5)


def test_dual_attention_with_a_plain_merge_is_the_sum_of_its_branches():
    x = jnp.asarray(RNG.normal(size=(4, 3, 2)), jnp.float32)
    zero = F.DualAttentionParams(
        reduce_kernel=jnp.zeros((2, 1)),
        reduce_bias=jnp.zeros(1),
        expand_kernel=jnp.zeros((1, 2)),
        expand_bias=jnp.full(2, np.log(3.0)),  # a gate of 3/4
        spatial_kernel=jnp.zeros((5, 5, 2)),
        spatial_bias=jnp.asarray(-np.log(3.0)),  # a gate of 1/4
        merge_kernel=jnp.concatenate([jnp.eye(2), 2 * jnp.eye(2)]),
        merge_bias=jnp.asarray([0.0, 1.0]),
    )
    # The spatial branch comes first.
    expected = 0.25 * x + 2 * 0.75 * x + jnp.asarray([[[0.0, 1.0]]])
    np.testing.assert_allclose(F.dual_attention(x, zero), expected, rtol=1e-6, atol=1e-6)


def test_cbam_gates_channels_first_and_positions_by_what_is_left():
    x = np.abs(RNG.normal(size=(3, 4, 2))).astype(np.float32)
    closed = F.CBAMParams(
        reduce_kernel=jnp.zeros((2, 1)),
        reduce_bias=jnp.ones(1),
        expand_kernel=jnp.zeros((1, 2)),
        # Counted twice, once for the mean and once for the maximum: 0 and infinity to the gate.
        expand_bias=jnp.asarray([-50.0, 50.0]),
        spatial_kernel=jnp.zeros((1, 1, 2)).at[..., 1].set(1.0),
        spatial_bias=jnp.asarray(0.0),
    )
    y = F.cbam(jnp.asarray(x), closed)
    np.testing.assert_allclose(y[..., 0], 0, atol=1e-12)
    np.testing.assert_allclose(y[..., 1], x[..., 1] / (1 + np.exp(-x[..., 1])), rtol=1e-5)


def test_sge_opens_where_a_group_agrees_with_its_mean():
    x = np.zeros((1, 4, 2), np.float32)
    x[0, 0] = [3.0, 1.0]
    x[0, 1:] = [1.0, 0.5]
    y = F.sge(jnp.asarray(x), F.SGEParams(jnp.asarray([1.0]), jnp.asarray([0.0])))
    agreement = x[0] @ x[0].mean(0)
    standard = (agreement - agreement.mean()) / np.sqrt(agreement.var() + 1e-5)
    np.testing.assert_allclose(y[0], x[0] / (1 + np.exp(-standard))[:, None], rtol=1e-5)


def _dense(features: int, hidden: int = 2):
    return {
        "reduce_kernel": jnp.zeros((features, hidden)),
        "reduce_bias": jnp.zeros(hidden),
        "expand_kernel": jnp.zeros((hidden, features)),
        "expand_bias": jnp.zeros(features),
    }


@pytest.mark.parametrize(
    ("function", "params", "message"),
    [
        (
            F.squeeze_excite,
            F.SqueezeExciteParams(**_dense(6)),
            r"squeeze_excite: reduce_kernel has shape \(6, 2\).*8 channels.*\(8, 2\)",
        ),
        (
            F.squeeze_excite,
            F.SqueezeExciteParams(**_dense(8) | {"expand_bias": jnp.zeros(3)}),
            r"expand_bias has shape \(3,\).*\(8,\)",
        ),
        (F.eca, F.ECAParams(jnp.zeros(4)), r"must be odd .*got 4"),
        (
            F.cbam,
            F.CBAMParams(
                **_dense(8), spatial_kernel=jnp.zeros((4, 4, 2)), spatial_bias=jnp.zeros(())
            ),
            r"cbam: .*must be odd .*got 4",
        ),
        (
            F.cbam,
            F.CBAMParams(
                **_dense(8), spatial_kernel=jnp.zeros((7, 7, 8)), spatial_bias=jnp.zeros(())
            ),
            r"cbam: spatial_kernel has shape \(7, 7, 8\).*\(7, 7, 2\)",
        ),
        (
            F.sge,
            F.SGEParams(jnp.zeros(3), jnp.zeros(3)),
            r"groups=3; groups that fit 8 channels: 1, 2, 4, 8",
        ),
        (F.sge, F.SGEParams(jnp.zeros(2), jnp.zeros(4)), r"bias has shape \(4,\).*\(2,\)"),
        (
            F.dual_attention,
            F.DualAttentionParams(
                **_dense(8),
                spatial_kernel=jnp.zeros((5, 5, 2)),
                spatial_bias=jnp.zeros(()),
                merge_kernel=jnp.zeros((8, 8)),
                merge_bias=jnp.zeros(8),
            ),
            r"merge_kernel has shape \(8, 8\).*\(16, 8\)",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_explained(function, params, message):
    with refuses(message):
        function(jnp.zeros((4, 4, 8)), params)


def test_statistics_survive_large_means_in_bfloat16():
    """A mean over 4096 values in bfloat16 itself would stop growing after 256 of them."""
    x = jnp.ones((64, 64, 8), jnp.bfloat16)
    opened = masks.SqueezeExciteParams(
        reduce_kernel=jnp.eye(8),
        reduce_bias=jnp.zeros(8),
        expand_kernel=jnp.eye(8),
        expand_bias=jnp.zeros(8),
    )
    expected = jax.nn.sigmoid(1.0).astype(jnp.bfloat16)
    np.testing.assert_array_equal(
        masks.squeeze_excite(x, opened).astype(np.float32), expected.astype(np.float32)
    )
