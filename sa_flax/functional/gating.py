"""Masks: attentions that pool a map, turn the result into gates by a sigmoid, and multiply.

All are channels-last, (..., H, W, C), pure, and keep the dtype of the map; what they pool and gate
by is computed in float32 (float64 for float64). Their cost grows with the pixels, not with the
square of them. `window=(h, w)` takes the pooling over the window around each pixel in place of the
whole map (`sa_flax.functional.pooling`): for photographs much larger than the training crops.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.canvas import blank_outside
from sa_flax.functional.pooling import (
    Window,
    centred_and_variance,
    spatial_max,
    spatial_mean,
    statistics_dtype,
)
from sa_flax.functional.shapes import check_shapes


class SqueezeExciteParams(NamedTuple):
    """Two dense layers, C -> R -> C, of a squeeze-and-excitation gate."""

    reduce_kernel: Float[Array, "C R"]
    reduce_bias: Float[Array, " R"]
    expand_kernel: Float[Array, "R C"]
    expand_bias: Float[Array, " C"]


class ECAParams(NamedTuple):
    """A convolution over neighbouring channels, of odd size K, without bias."""

    kernel: Float[Array, " K"]


class CBAMParams(NamedTuple):
    """The shared dense layers C -> R -> C of the channel gate; the K x K convolution 2 -> 1 of the
    spatial gate, whose inputs are the mean and the maximum of the channels."""

    reduce_kernel: Float[Array, "C R"]
    reduce_bias: Float[Array, " R"]
    expand_kernel: Float[Array, "R C"]
    expand_bias: Float[Array, " C"]
    spatial_kernel: Float[Array, "K K 2"]
    spatial_bias: Float[Array, ""]


class SGEParams(NamedTuple):
    """Weight and bias of the gate of each of G groups; they start at 0 and 1."""

    weight: Float[Array, " G"]
    bias: Float[Array, " G"]


class DualAttentionParams(NamedTuple):
    """Dense layers C -> R -> C of the channel branch, K x K convolution 2 -> 1 of the spatial
    branch, and the 1 x 1 convolution 2C -> C that merges the two (spatial branch first)."""

    reduce_kernel: Float[Array, "C R"]
    reduce_bias: Float[Array, " R"]
    expand_kernel: Float[Array, "R C"]
    expand_bias: Float[Array, " C"]
    spatial_kernel: Float[Array, "K K 2"]
    spatial_bias: Float[Array, ""]
    merge_kernel: Float[Array, "2C C"]
    merge_bias: Float[Array, " C"]


def _check_dense(kind: str, x: jax.Array, params) -> None:
    features, hidden = x.shape[-1], params.reduce_bias.size
    check_shapes(
        kind,
        features,
        params,
        reduce_kernel=(features, hidden),
        reduce_bias=(hidden,),
        expand_kernel=(hidden, features),
        expand_bias=(features,),
    )


def _check_spatial(kind: str, x: jax.Array, params) -> None:
    size = params.spatial_kernel.shape[0]
    check_odd(kind, size)
    check_shapes(kind, x.shape[-1], params, spatial_kernel=(size, size, 2), spatial_bias=())


def check_odd(kind: str, size: int) -> None:
    """Raises ValueError unless `size` is an odd number of at least 1."""
    if size < 1 or size % 2 == 0:
        raise ValueError(
            f"{kind}: the convolution must be centred, so its size must be odd (1, 3, 5, ...); "
            f"got {size}."
        )


def _two_dense(pooled: Float[Array, "... C"], params) -> Float[Array, "... C"]:
    """`expand(relu(reduce(pooled)))`."""
    hidden = jax.nn.relu(pooled @ params.reduce_kernel + params.reduce_bias)
    return hidden @ params.expand_kernel + params.expand_bias


def _mean_and_max_gate(x: Float[Array, "... H W C"], params) -> Float[Array, "... H W 1"]:
    """Sigmoid of a convolution (zeros outside) over mean and maximum of the channels."""
    x = x.astype(statistics_dtype(x.dtype))
    pooled = jnp.concatenate(
        [jnp.mean(x, axis=-1, keepdims=True), jnp.max(x, axis=-1, keepdims=True)], axis=-1
    )
    convolved = jax.lax.conv_general_dilated(
        blank_outside(pooled.reshape(-1, *pooled.shape[-3:])),
        params.spatial_kernel[..., None].astype(pooled.dtype),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.sigmoid(convolved.reshape(*x.shape[:-1], 1) + params.spatial_bias)


def squeeze_excite(
    x: Float[Array, "... H W C"], params: SqueezeExciteParams, *, window: Window = None
) -> Float[Array, "... H W C"]:
    """Squeeze and excitation: `x * sigmoid(expand(relu(reduce(mean_HW(x)))))`.

    Costs one pass to pool and one to multiply, and 2 C R + R + C parameters. The plain choice where
    channels matter by what is in the whole picture; it says nothing of places. With a window the
    two dense layers run at every pixel: 4 C R operations each.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `SqueezeExciteParams`.
      window: (height, width) around each pixel that the mean is taken over; None for the whole map.

    Raises:
      ValueError: where the parameters are not for C channels.

    Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507.
    """
    _check_dense("squeeze_excite", x, params)
    return (x * jax.nn.sigmoid(_two_dense(spatial_mean(x, window=window), params))).astype(x.dtype)


def eca_kernel_size(features: int) -> int:
    """ECA's adaptive size: the whole part of (log2(C) + 1) / 2, or one more to be odd."""
    size = int(abs((math.log2(features) + 1) / 2))
    return size if size % 2 else size + 1


def eca(
    x: Float[Array, "... H W C"], params: ECAParams, *, window: Window = None
) -> Float[Array, "... H W C"]:
    """Efficient channel attention: `x * sigmoid(conv_over_channels(mean_HW(x)))`.

    The gate of channel c is `sigmoid(sum_i kernel[i] m[c + i - K // 2])`, m being the means and 0
    outside. K parameters (3 or 5) and next to no arithmetic: what to take where every parameter
    counts. It assumes that neighbouring channels have to do with each other, as training makes
    them.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `ECAParams`; `eca_kernel_size(C)` is the paper's K.
      window: (height, width) around each pixel that the mean is taken over; None for the whole map.

    Raises:
      ValueError: for an even K.

    Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    CVPR 2020, https://arxiv.org/abs/1910.03151.
    """
    size = params.kernel.size
    check_odd("eca", size)
    check_shapes("eca", x.shape[-1], params, kernel=(size,))
    pooled = spatial_mean(x, window=window)
    pad = [(0, 0)] * (pooled.ndim - 1) + [(size // 2, size // 2)]
    padded, features = jnp.pad(pooled, pad), x.shape[-1]
    # A handful of shifted copies: no convolution primitive for three taps over one row.
    logits = sum(params.kernel[i] * padded[..., i : i + features] for i in range(size))
    return (x * jax.nn.sigmoid(logits)).astype(x.dtype)


def cbam(
    x: Float[Array, "... H W C"], params: CBAMParams, *, window: Window = None
) -> Float[Array, "... H W C"]:
    """Convolutional block attention: a gate for each channel, then one for each position.

        y = x * sigmoid(mlp(mean_HW(x)) + mlp(max_HW(x)))
        out = y * sigmoid(conv([mean_C(y), max_C(y)]))

    with one two-layer `mlp(v) = expand(relu(reduce(v)))` for both, and a convolution that sees
    zeros outside the map. Costs four passes and 2 C R + R + C + 2 K^2 + 1 parameters; the K x K
    convolution has two channels only. Pays where noise or content sits in places as well as in
    channels. The
    maximum over H x W follows single noisy pixels: on strong noise try "dual", which has none.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `CBAMParams`; K = 7 in the paper.
      window: (height, width) around each pixel that mean and maximum over H x W are taken over;
        None for the whole map.

    Raises:
      ValueError: where the parameters are not for C channels, or K is even.

    Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018,
    https://arxiv.org/abs/1807.06521. The authors' code adds a batch norm behind the convolution; as
    in the paper, there is none here.
    """
    _check_dense("cbam", x, params)
    _check_spatial("cbam", x, params)
    largest = spatial_max(x, window=window).astype(statistics_dtype(x.dtype))
    logits = _two_dense(spatial_mean(x, window=window), params) + _two_dense(largest, params)
    y = x * jax.nn.sigmoid(logits)
    return (y * _mean_and_max_gate(y, params)).astype(x.dtype)


def sge(
    x: Float[Array, "... H W C"],
    params: SGEParams,
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Float[Array, "... H W C"]:
    """Spatial group-wise enhance: each group of channels is gated where it agrees with its mean.

    For every group of C / G consecutive channels, with x_i its vector at position i:

        c_i = x_i . mean_HW(x);   out_i = x_i * sigmoid(weight * normalise_HW(c)_i + bias)

    normalise being (c - mean) / sqrt(variance + epsilon) with the biased variance. Three passes and
    2 G parameters. The predecessor of shuffle attention, which does away with the product and mixes
    the groups; it pays where groups have learned parts of a scene.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `SGEParams`; their length is the number of groups.
      epsilon: added to the variance.
      window: (height, width) around each pixel that mean and variance are taken over; None for the
        whole map.

    Raises:
      ValueError: where G does not divide C.

    Li et al., "Spatial Group-wise Enhance: Improving Semantic Feature Learning in Convolutional
    Networks", 2019, https://arxiv.org/abs/1905.09646. The paper divides by (standard deviation +
    epsilon), whose gradient is not finite where a group is constant.
    """
    groups = params.weight.size
    check_divides("sge", x.shape[-1], groups)
    check_shapes("sge", x.shape[-1], params, weight=(groups,), bias=(groups,))
    grouped = (*x.shape[:-1], groups, x.shape[-1] // groups)
    agreement = jnp.sum((x * spatial_mean(x, window=window)).reshape(grouped), axis=-1)
    centred, variance = centred_and_variance(agreement, window=window)
    logits = params.weight * (centred * jax.lax.rsqrt(variance + epsilon)) + params.bias
    gated = x.reshape(grouped) * jax.nn.sigmoid(logits)[..., None]
    return gated.reshape(x.shape).astype(x.dtype)


def check_divides(kind: str, features: int, groups: int) -> None:
    """Raises ValueError, listing the groups that would fit, unless `groups` divide `features`."""
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or features % groups:
        fits = [g for g in range(1, features + 1) if features % g == 0]
        raise ValueError(
            f"{kind} splits the channels into equal groups; got {features} channels and "
            f"groups={groups!r}; groups that fit: {', '.join(map(str, fits))}."
        )


def dual_attention(
    x: Float[Array, "... H W C"], params: DualAttentionParams, *, window: Window = None
) -> Float[Array, "... H W C"]:
    """Dual attention of CycleISP and MIRNet: channel and spatial gates side by side, then merged.

        by_channel = x * sigmoid(expand(relu(reduce(mean_HW(x)))))
        by_place   = x * sigmoid(conv([mean_C(x), max_C(x)]))
        out = [by_place, by_channel] @ merge_kernel + merge_bias

    The mask that was designed for denoising, and the only one here that mixes channels: its 1 x 1
    convolution has 2 C^2 + C parameters and costs 4 C^2 operations a pixel, two ninths of a 3 x 3
    convolution. It pays where the budget allows that. The sum with the input that follows in both
    papers is the residual block's.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `DualAttentionParams`; K = 5 in both papers.
      window: (height, width) around each pixel that the mean over H x W is taken over; None for the
        whole map.

    Raises:
      ValueError: where the parameters are not for C channels, or K is even.

    Zamir et al., "CycleISP", CVPR 2020, https://arxiv.org/abs/2003.07761, and "Learning Enriched
    Features for Real Image Restoration and Enhancement" (MIRNet), ECCV 2020,
    https://arxiv.org/abs/2003.06792.
    """
    _check_dense("dual_attention", x, params)
    _check_spatial("dual_attention", x, params)
    features = x.shape[-1]
    check_shapes(
        "dual_attention",
        features,
        params,
        merge_kernel=(2 * features, features),
        merge_bias=(features,),
    )
    channel_gate = jax.nn.sigmoid(_two_dense(spatial_mean(x, window=window), params))
    both = jnp.concatenate([x * _mean_and_max_gate(x, params), x * channel_gate], axis=-1)
    return (both @ params.merge_kernel + params.merge_bias).astype(x.dtype)
