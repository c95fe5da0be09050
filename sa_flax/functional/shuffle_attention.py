"""Shuffle attention (SA-Net): gates half of every group of channels by what it is on average, the
other half by where it stands out, then shuffles the channels so that the groups mix.

Zhang and Yang, "SA-Net: Shuffle Attention for Deep Convolutional Neural Networks", ICASSP 2021,
https://arxiv.org/abs/2102.00240. Maps are channels-last, (..., H, W, C).
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.canvas import current_canvas
from sa_flax.functional.fused_shuffle_attention import fused_shuffle_attention
from sa_flax.functional.fused_without_shuffle import fused_without_shuffle
from sa_flax.functional.pooling import Window, centred_and_variance, covers, spatial_mean


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


def fitting_groups(features: int) -> list[int]:
    """The numbers of groups that shuffle attention accepts for `features` channels."""
    return [g for g in range(1, features // 2 + 1) if features % (2 * g) == 0]


def check_groups(features: int, groups: int) -> None:
    """Raises ValueError, listing the groups that would fit, unless 2 `groups` divide `features`."""
    if (
        isinstance(groups, bool)
        or not isinstance(groups, int)
        or groups < 1
        or features % (2 * groups)
    ):
        fits = fitting_groups(features)
        advice = (
            f"groups that fit {features} channels: {', '.join(map(str, fits))}"
            if fits
            else f"no number of groups fits {features} channels: use an even number of channels"
        )
        raise ValueError(
            f"shuffle attention splits every group into two halves, so channels must be divisible "
            f"by 2 * groups; got {features} channels and groups={groups!r}; {advice}."
        )


def group_split(
    x: Float[Array, "... H W C"], groups: int
) -> tuple[Float[Array, "... H W C/2"], Float[Array, "... H W C/2"]]:
    """Splits every group of C / groups channels into its first and its second half.

    Returns the first halves of all groups, and the second halves, group after group: channel
    `g k + j` of either is channel j of that half of group g, with k = C / (2 groups).
    """
    check_groups(x.shape[-1], groups)
    grouped = x.reshape(*x.shape[:-1], groups, 2, -1)
    halves = grouped[..., 0, :], grouped[..., 1, :]
    first, second = (half.reshape(*x.shape[:-1], x.shape[-1] // 2) for half in halves)
    return first, second


def group_merge(
    first: Float[Array, "... H W C/2"], second: Float[Array, "... H W C/2"], groups: int
) -> Float[Array, "... H W C"]:
    """Puts the two halves of every group side by side again: the inverse of `group_split`."""
    lead = first.shape[:-1]
    halves = [half.reshape(*lead, groups, 1, -1) for half in (first, second)]
    return jnp.concatenate(halves, axis=-2).reshape(*lead, -1)


def group_norm(
    x: Float[Array, "... H W C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Float[Array, "... H W C"]:
    """Group norm with one channel per group, as shuffle attention uses it: instance norm.

    `scale * (x - mean) / sqrt(variance + epsilon) + bias`, mean and (biased) variance of each
    channel of each picture over H x W, or over the `window=(h, w)` around each pixel. Returns
    float32, or float64 for float64.
    """
    centred, variance = centred_and_variance(x, window=window)
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale) + bias


def channel_gate(
    x: Float[Array, "... H W C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    window: Window = None,
) -> Float[Array, "... H W C"]:
    """Gates every channel by its mean: `x * sigmoid(weight * mean_HW(x) + bias)`."""
    gate = jax.nn.sigmoid(weight * spatial_mean(x, window=window) + bias)
    return (x * gate).astype(x.dtype)


def spatial_gate(
    x: Float[Array, "... H W C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    norm_scale: Float[Array, " C"],
    norm_bias: Float[Array, " C"],
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Float[Array, "... H W C"]:
    """Gates every position by how it stands out: `x * sigmoid(weight * group_norm(x) + bias)`."""
    normalised = group_norm(x, norm_scale, norm_bias, epsilon=epsilon, window=window)
    return (x * jax.nn.sigmoid(weight * normalised + bias)).astype(x.dtype)


def channel_shuffle(x: Float[Array, "... C"], groups: int = 2) -> Float[Array, "... C"]:
    """Interleaves the channels of consecutive groups: `out[groups j + g] = x[g C/groups + j]`.

    Raises ValueError where C is not divisible by `groups`. Zhang et al., "ShuffleNet", CVPR 2018.
    """
    _check_shuffle(x.shape[-1], groups)
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


def channel_unshuffle(x: Float[Array, "... C"], groups: int = 2) -> Float[Array, "... C"]:
    """The inverse of `channel_shuffle`: `out[g C/groups + j] = x[groups j + g]`."""
    _check_shuffle(x.shape[-1], groups)
    return x.reshape(*x.shape[:-1], -1, groups).swapaxes(-1, -2).reshape(x.shape)


def fold_channel_shuffle(
    kernel: Float[Array, "..."], groups: int = 2, *, axis: int = -2
) -> Float[Array, "..."]:
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


def _check_shuffle(features: int, groups: int) -> None:
    if groups < 1 or features % groups:
        raise ValueError(
            f"a channel shuffle needs channels divisible by groups; got {features} channels and "
            f"groups={groups}."
        )


Implementation = Literal["textbook", "fused", "pallas"]


def shuffle_attention(
    x: Float[Array, "... H W C"],
    params: ShuffleAttentionParams,
    *,
    groups: int = 8,
    epsilon: float = 1e-5,
    window: Window = None,
    shuffle: bool = True,
    implementation: Implementation | None = None,
) -> Float[Array, "... H W C"]:
    """Shuffle attention.

    With x split into groups and each group into halves x0 and x1 of k = C / (2 groups) channels:

        y0 = x0 * sigmoid(channel_weight * mean_HW(x0) + channel_bias)
        y1 = x1 * sigmoid(spatial_weight * group_norm(x1) + spatial_bias)
        out = channel_shuffle(merge(y0, y1), 2)

    Args:
      x: feature map, (..., H, W, C), any float dtype; statistics are taken in float32 (float64 for
        float64).
      params: six vectors of length k, shared by all groups.
      groups: number of groups; 2 * groups must divide C. The paper uses 64 for classifiers.
      epsilon: added to the variance in the group norm.
      window: (height, width) around each pixel that mean and group norm are taken over; None for
        the whole map. See `sa_flax.functional.pooling`.
      shuffle: False leaves `channel_shuffle` out, for inference where it has been folded into the
        next convolution by `fold_channel_shuffle`. Not with implementation="pallas".
      implementation: "textbook" composes the functions of this module, as written above; "fused"
        gives the same in fewer passes over the map, without a window; "pallas" is "fused" with a
        kernel for the forward pass, except on GPUs only for maps of which a pair of channels fits
        into fast memory; None chooses: "fused", but "textbook" with a window and for maps sharded
        over explicit mesh axes.

    Returns:
      A map of x's shape and dtype.

    Raises:
      ValueError: where C is not divisible by 2 * groups (the groups that fit are listed), the
        vectors do not have length k, or the implementation is unknown, can't take a window, can't
        leave out the shuffle, or can't do this size.
    """
    check_groups(x.shape[-1], groups)
    k = x.shape[-1] // (2 * groups)
    for name, vector in params._asdict().items():
        if vector.shape != (k,):
            raise ValueError(
                f"{name} has shape {vector.shape}; {x.shape[-1]} channels in {groups} groups need "
                f"vectors of length C / (2 groups) = {k}."
            )
    if implementation not in (None, *get_args(Implementation)):
        raise ValueError(
            f"implementation must be None or one of {', '.join(get_args(Implementation))}; got "
            f"{implementation!r}."
        )
    windowed, explicit = not covers(window, x), _sharded_explicitly(x)
    asked = implementation in ("fused", "pallas")
    if implementation == "pallas" and not shuffle:
        raise ValueError("implementation='pallas' always shuffles; use 'fused' for shuffle=False.")
    if windowed and asked:
        raise ValueError("statistics over a window need implementation='textbook', or None.")
    if explicit and asked:
        raise ValueError(
            f"implementation={implementation!r} leaves sharding to the compiler, and x is sharded "
            f"over explicit mesh axes: {jax.typeof(x)}. Make the mesh with "
            f"axis_types=(jax.sharding.AxisType.Auto, ...), or use implementation='textbook'."
        )
    # On a canvas statistics may be given, and the picture may be smaller than its map.
    on_canvas = current_canvas() is not None
    if windowed or explicit or on_canvas or implementation == "textbook":
        return textbook_shuffle_attention(
            x, params, groups=groups, epsilon=epsilon, window=window, shuffle=shuffle
        )
    if not shuffle:
        return fused_without_shuffle(x, params, groups=groups, epsilon=epsilon)
    return fused_shuffle_attention(
        x, params, groups=groups, epsilon=epsilon, kernel=implementation == "pallas"
    )


def _sharded_explicitly(x: Array) -> bool:
    return any(axes is not None for axes in jax.typeof(x).sharding.spec)


def textbook_shuffle_attention(
    x: Float[Array, "... H W C"],
    params: ShuffleAttentionParams,
    *,
    groups: int,
    epsilon: float,
    window: Window = None,
    shuffle: bool = True,
) -> Float[Array, "... H W C"]:
    """What `shuffle_attention(..., implementation="textbook")` runs."""
    # One copy of the vectors for each group.
    tiled = ShuffleAttentionParams(*(jnp.tile(vector, groups) for vector in params))
    x0, x1 = group_split(x, groups)
    y0 = channel_gate(x0, tiled.channel_weight, tiled.channel_bias, window=window)
    y1 = spatial_gate(
        x1,
        tiled.spatial_weight,
        tiled.spatial_bias,
        tiled.norm_scale,
        tiled.norm_bias,
        epsilon=epsilon,
        window=window,
    )
    merged = group_merge(y0, y1, groups)
    return channel_shuffle(merged, 2) if shuffle else merged
