"""Shuffle attention (SA-Net): gates half of every group of channels by what it is on average, the
other half by where it stands out, then shuffles the channels so that the groups mix.

Zhang and Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021,
https://arxiv.org/abs/2102.00240. Maps are channels-last, (..., H, W, C).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from sa_flax.functional.checks import (
    check_groups,
    check_map,
    check_shapes,
    check_size,
    default_groups,
)
from sa_flax.functional.initializers import lecun_normal
from sa_flax.functional.layout import per_channel
from sa_flax.functional.parameters import Parameter, shapes, start_all
from sa_flax.functional.statistics import (
    Window,
    centred_and_variance,
    spatial_mean,
    statistics_dtype,
    widened,
)

_KIND = "shuffle attention"


class ShuffleAttentionParams(NamedTuple):
    """The six vectors of a shuffle attention, each of length k = C / (2 groups).

    All groups share them. The paper's code starts the weights at 0, the biases at 1, the norm at
    scale 1 and bias 0, so that every gate starts at sigmoid(1) = 0.731.
    """

    channel_weight: Float[Array, " k"]
    channel_bias: Float[Array, " k"]
    spatial_weight: Float[Array, " k"]
    spatial_bias: Float[Array, " k"]
    norm_scale: Float[Array, " k"]
    norm_bias: Float[Array, " k"]

    @staticmethod
    def parameters(features: int, *, groups: int | None = None) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        check_size(_KIND, "features", features)
        groups = default_groups(features, 2) if groups is None else groups
        check_groups(_KIND, features, groups, parts=2)
        shape = (features // (2 * groups),)
        starts = (0.0, 1.0, 0.0, 1.0, 1.0, 0.0)
        fields = ShuffleAttentionParams._fields
        return {name: Parameter(shape, s) for name, s in zip(fields, starts, strict=True)}

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        groups: int | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
    ) -> "ShuffleAttentionParams":
        """The vectors as the paper's code starts them.

        Args:
          key: as for the other kinds; nothing is drawn from it, and it may be None.
          features: channels C of the map.
          groups: number of groups; None for the most, up to 8, that fit.
          dtype: of the vectors.

        Raises:
          ValueError: where 2 * groups does not divide features; the groups that fit are listed.
        """
        return start_all(cls, cls.parameters(features, groups=groups), key, lecun_normal, dtype)


def check_params(features: int, params: ShuffleAttentionParams, groups: int | None) -> int:
    """The number of groups, where None as many as the vectors' length says.

    Raises:
      ValueError: unless the groups fit the features, and the six vectors fit both.
    """
    if groups is None:
        k = params.norm_bias.size
        if k < 1 or features % (2 * k):
            raise ValueError(
                f"shuffle_attention: vectors of length {k} can't be for a map of {features} "
                f"channels: twice their length must divide it. Make them by "
                f"ShuffleAttentionParams.init(None, {features})."
            )
        groups = features // (2 * k)
    expected = ShuffleAttentionParams.parameters(features, groups=groups)
    kind = f"shuffle_attention in {groups} groups (vectors of length C / (2 groups))"
    check_shapes(kind, features, params, **shapes(expected))
    return groups


def group_split(
    x: Shaped[Array, "*B H W C"], groups: int
) -> tuple[Shaped[Array, "*B H W C//2"], Shaped[Array, "*B H W C//2"]]:
    """Splits every group of C / groups channels into its first and its second half.

    Returns the first halves of all groups, and the second halves, group after group: channel
    `g k + j` of either is channel j of that half of group g, with k = C / (2 groups).
    """
    features = x.shape[-1]
    check_groups("group_split", features, groups, parts=2)
    grouped = x.reshape(*x.shape[:-1], groups, 2, features // (2 * groups))
    halves = grouped[..., 0, :], grouped[..., 1, :]
    first, second = (half.reshape(*x.shape[:-1], features // 2) for half in halves)
    return first, second


def group_merge(
    first: Shaped[Array, "*B H W D"], second: Shaped[Array, "*B H W D"], groups: int
) -> Shaped[Array, "*B H W 2*D"]:
    """Puts the two halves of every group side by side again: the inverse of `group_split`."""
    *lead, half = first.shape
    check_groups("group_merge", 2 * half, groups, parts=2)
    halves = [h.reshape(*lead, groups, 1, half // groups) for h in (first, second)]
    return jnp.concatenate(halves, axis=-2).reshape(*lead, 2 * half)


def group_norm(
    x: Float[Array, "*B H W C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Float[Array, "*B H W C"]:
    """Group norm with one channel per group, as shuffle attention uses it: instance norm.

    `scale * (x - mean) / sqrt(variance + epsilon) + bias`, mean and (biased) variance of each
    channel of each picture over H x W, or over the `window=(h, w)` around each pixel. Returns
    float32, or float64 for float64.

    Raises:
      ValueError: for a map that is not (..., H, W, C) or does not hold floating-point numbers.
    """
    centred, variance = centred_and_variance(x, window=window)
    scale, bias = _along(centred, scale, bias)
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale) + bias


def _along(x: Array, *vectors: Array) -> tuple[Array, ...]:
    """Vectors of the parameters as they meet x, in its statistics' dtype."""
    dtype = statistics_dtype(x.dtype)
    return tuple(per_channel(jnp.asarray(vector, dtype), x.ndim) for vector in vectors)


def channel_gate_map(
    x: Float[Array, "*B H W C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    window: Window = None,
) -> Float[Array, "... #H #W C"]:
    """What `channel_gate` multiplies by, in the statistics' dtype."""
    weight, bias = _along(x, weight, bias)
    return jax.nn.sigmoid(weight * spatial_mean(x, window=window) + bias)


def channel_gate(
    x: Float[Array, "*B H W C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    window: Window = None,
) -> Float[Array, "*B H W C"]:
    """Gates every channel by its mean: `x * sigmoid(weight * mean_HW(x) + bias)`.

    Raises:
      ValueError: for a map that is not (..., H, W, C) or does not hold floating-point numbers.
    """
    x = check_map("channel_gate", x)
    gate = channel_gate_map(x, weight, bias, window=window)
    return (widened(x) * gate).astype(x.dtype)


def spatial_gate_map(
    x: Float[Array, "*B H W C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    norm_scale: Float[Array, " C"],
    norm_bias: Float[Array, " C"],
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Float[Array, "*B H W C"]:
    """What `spatial_gate` multiplies by, in the statistics' dtype."""
    normalised = group_norm(x, norm_scale, norm_bias, epsilon=epsilon, window=window)
    weight, bias = _along(x, weight, bias)
    return jax.nn.sigmoid(weight * normalised + bias)


def spatial_gate(
    x: Float[Array, "*B H W C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    norm_scale: Float[Array, " C"],
    norm_bias: Float[Array, " C"],
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Float[Array, "*B H W C"]:
    """Gates every position by how it stands out: `x * sigmoid(weight * group_norm(x) + bias)`.

    Raises:
      ValueError: for a map that is not (..., H, W, C) or does not hold floating-point numbers.
    """
    x = check_map("spatial_gate", x)
    gate = spatial_gate_map(x, weight, bias, norm_scale, norm_bias, epsilon=epsilon, window=window)
    return (widened(x) * gate).astype(x.dtype)


def channel_shuffle(x: Shaped[Array, "*B C"], groups: int = 2) -> Shaped[Array, "*B C"]:
    """Interleaves the channels of consecutive groups: `out[groups j + g] = x[g C/groups + j]`.

    Raises ValueError where C is not divisible by `groups`. Zhang et al., "ShuffleNet", CVPR 2018.
    """
    each = _check_shuffle(x.shape[-1], groups)
    return x.reshape(*x.shape[:-1], groups, each).swapaxes(-1, -2).reshape(x.shape)


def channel_unshuffle(x: Shaped[Array, "*B C"], groups: int = 2) -> Shaped[Array, "*B C"]:
    """The inverse of `channel_shuffle`: `out[g C/groups + j] = x[groups j + g]`."""
    each = _check_shuffle(x.shape[-1], groups)
    return x.reshape(*x.shape[:-1], each, groups).swapaxes(-1, -2).reshape(x.shape)


def fold_channel_shuffle(
    kernel: Shaped[Array, "..."], groups: int = 2, *, axis: int = -2
) -> Shaped[Array, "..."]:
    """The kernel that does to unshuffled channels what `kernel` does to shuffled ones.

        conv(channel_shuffle(y, groups), kernel) == conv(y, fold_channel_shuffle(kernel, groups))

    For inference: fold once, then evaluate attention with `shuffle=False`. The kernel's input
    channels take the other order, `out[..., g C/groups + j, :] = kernel[..., groups j + g, :]`, and
    the convolution sums the same terms in that order. Only a convolution that alone reads the
    shuffled channels can take the shuffle in: not a grouped one, nor one behind a residual sum, as
    all of this library's own networks have it.

    On two CPU cores and (8, 64, 64, 32) to (1, 512, 512, 32) maps, fused attention took 1.10 to
    1.35 times the processor time with its shuffle; followed by a 1 x 1 convolution 1.05 to 1.14
    times, by a 3 x 3 convolution 1.00 to 1.11 times.

    Args:
      kernel: weights with C input channels along `axis`: (height, width, C, features) of a
        convolution or (C, features) of a dense layer as Flax keeps them.
      groups: groups of the shuffle; 2 in shuffle attention.
      axis: the axis of the input channels; 1 for PyTorch's (features, C, height, width).

    Returns:
      An array of kernel's shape and dtype.

    Raises:
      ValueError: where C is not divisible by `groups`.
    """
    return jnp.moveaxis(channel_unshuffle(jnp.moveaxis(kernel, axis, -1), groups), -1, axis)


def _check_shuffle(features: int, groups: int) -> int:
    """Channels of each group."""
    if groups < 1 or features % groups:
        raise ValueError(
            f"a channel shuffle needs channels divisible by groups; got {features} channels and "
            f"groups={groups}."
        )
    return features // groups


def gates_of_halves(
    first: Float[Array, "*B H W D"],
    second: Float[Array, "*B H W D"],
    params: ShuffleAttentionParams,
    *,
    groups: int,
    epsilon: float,
    window: Window = None,
) -> tuple[Float[Array, "... #H #W D"], Float[Array, "*B H W D"]]:
    """The gates of the two halves that `group_split` gives, in the statistics' dtype."""
    # One copy of the vectors for each group.
    tiled = ShuffleAttentionParams(*(jnp.tile(vector, groups) for vector in params))
    by_channel = channel_gate_map(first, tiled.channel_weight, tiled.channel_bias, window=window)
    by_place = spatial_gate_map(second, *tiled[2:], epsilon=epsilon, window=window)
    return by_channel, by_place


def textbook(
    x: Float[Array, "*B H W C"],
    params: ShuffleAttentionParams,
    *,
    groups: int,
    epsilon: float,
    window: Window = None,
    shuffle: bool = True,
) -> Float[Array, "*B H W C"]:
    """What `shuffle_attention(..., implementation="textbook")` runs; it has checked the arguments.

    Slower than the fused form and of more memory, but one line for each line of the formula. It
    takes a window, and derivatives of the fused form's own derivative go through it.
    """
    halves = group_split(x, groups)
    gates = gates_of_halves(*halves, params, groups=groups, epsilon=epsilon, window=window)
    y0, y1 = ((widened(h) * gate).astype(x.dtype) for h, gate in zip(halves, gates, strict=True))
    merged = group_merge(y0, y1, groups)
    return channel_shuffle(merged, 2) if shuffle else merged
