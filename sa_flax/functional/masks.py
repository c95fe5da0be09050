"""Masks: attentions that pool a map, turn the result into gates by a sigmoid, and multiply.

All are channels-last, (..., H, W, C), pure, and keep the dtype of the map, whatever the parameters'
is; what they pool and gate by is computed in float32 (float64 for float64). Maps that are not
(..., H, W, C), or do not hold floating-point numbers, are refused with a ValueError. Over explicit
axes of a mesh the result is sharded as the map is. Their cost grows with the pixels, not with the
square of them. `window=(h, w)` takes the pooling over the window around each pixel in place of the
whole map (`sa_flax.functional.statistics`): for photographs much larger than the training crops.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.canvas import blank_outside
from sa_flax.functional.checks import check_groups, check_map, check_odd, check_shapes
from sa_flax.functional.layout import over_mesh, per_channel
from sa_flax.functional.mask_params import (
    CBAMParams,
    DualAttentionParams,
    ECAParams,
    SGEParams,
    SqueezeExciteParams,
)
from sa_flax.functional.statistics import (
    Window,
    centred_and_variance,
    params_for,
    spatial_max,
    spatial_mean,
    widened,
)

Maps = dict[str, Float[Array, "..."]]


def _check(kind: str, x: Any, params: Any) -> jax.Array:
    """`x` as a map; raises ValueError unless the parameters are for its channels."""
    x = check_map(kind, x)
    features = x.shape[-1]
    expected: dict[str, tuple[int, ...]] = {}
    if "reduce_bias" in params._fields:
        hidden = params.reduce_bias.size
        expected |= {"reduce_kernel": (features, hidden), "reduce_bias": (hidden,)}
        expected |= {"expand_kernel": (hidden, features), "expand_bias": (features,)}
    if "spatial_kernel" in params._fields:
        size = params.spatial_kernel.shape[0]
        check_odd(kind, size)
        expected |= {"spatial_kernel": (size, size, 2), "spatial_bias": ()}
    if "merge_kernel" in params._fields:
        expected |= {"merge_kernel": (2 * features, features), "merge_bias": (features,)}
    check_shapes(kind, features, params, **expected)
    return x


def _affine(x: Array, kernel: Array, bias: Array) -> Array:
    """`x @ kernel + bias` on the last axis."""
    return x @ kernel + per_channel(bias, x.ndim)


def _two_dense(pooled: Float[Array, "*B C"], params: Any) -> Float[Array, "*B C"]:
    """`expand(relu(reduce(pooled)))`."""
    hidden = jax.nn.relu(_affine(pooled, params.reduce_kernel, params.reduce_bias))
    return _affine(hidden, params.expand_kernel, params.expand_bias)


def _mean_and_max_gate(x: Float[Array, "*B H W C"], params: Any) -> Float[Array, "*B H W 1"]:
    """Sigmoid of a convolution (zeros outside) over mean and maximum of the channels."""
    pooled = jnp.concatenate(
        [jnp.mean(x, axis=-1, keepdims=True), jnp.max(x, axis=-1, keepdims=True)], axis=-1
    )
    convolved = jax.lax.conv_general_dilated(
        blank_outside(pooled.reshape(math.prod(x.shape[:-3]), *pooled.shape[-3:])),
        params.spatial_kernel[..., None],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.sigmoid(convolved.reshape(*x.shape[:-1], 1) + params.spatial_bias)


def squeeze_excite(
    x: Float[Array, "*B H W C"], params: SqueezeExciteParams, *, window: Window = None
) -> Float[Array, "*B H W C"]:
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
    x = _check("squeeze_excite", x, params)
    return over_mesh(lambda x, params: _multiplied(x, _channel_gate(x, params, window)), x, params)


def _channel_gate(x: Array, params: Any, window: Window) -> Array:
    return jax.nn.sigmoid(_two_dense(spatial_mean(x, window=window), params_for(x, params)))


def _multiplied(x: Array, gate: Array) -> Array:
    """The product, computed in the gate's dtype, in x's."""
    return (x.astype(gate.dtype) * gate).astype(x.dtype)


def squeeze_excite_maps(
    x: Float[Array, "*B H W C"], params: SqueezeExciteParams, *, window: Window = None
) -> Maps:
    """The gate of `squeeze_excite`: {"channel": (..., 1, 1, C), or (..., H, W, C) over a window}.

    Takes the arguments of `squeeze_excite`, and raises what it raises.
    """
    x = _check("squeeze_excite", x, params)
    return over_mesh(
        lambda x, params: {"channel": _channel_gate(x, params, window)}, x, params, like_x=False
    )


def eca(
    x: Float[Array, "*B H W C"], params: ECAParams, *, window: Window = None
) -> Float[Array, "*B H W C"]:
    """Efficient channel attention: `x * sigmoid(conv_over_channels(mean_HW(x)))`.

    The gate of channel c is `sigmoid(sum_i kernel[i] m[c + i - K // 2])`, m being the means and 0
    outside. A few parameters and next to no arithmetic: what to take where every parameter
    counts. It assumes that neighbouring channels have to do with each other, as training makes
    them.

    Args:
      x: feature map, (..., H, W, C), any float dtype.
      params: see `ECAParams`; `eca_kernel_size(C)` is the paper's K. They fit any number of
        channels: only the layer, `sa_flax.ECA`, knows which it is for.
      window: (height, width) around each pixel that the mean is taken over; None for the whole map.

    Raises:
      ValueError: for an even K.

    Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    CVPR 2020, https://arxiv.org/abs/1910.03151.
    """
    x = _check_eca(x, params)
    return over_mesh(lambda x, params: _multiplied(x, _eca_gate(x, params, window)), x, params)


def _check_eca(x: Any, params: ECAParams) -> jax.Array:
    x, size = check_map("eca", x), params.kernel.size
    check_odd("eca", size)
    check_shapes("eca", x.shape[-1], params, kernel=(size,))
    return x


def _eca_gate(x: Array, params: ECAParams, window: Window) -> Array:
    (kernel,), size, features = params_for(x, params), params.kernel.size, x.shape[-1]
    pooled = spatial_mean(x, window=window)
    pad = [(0, 0)] * (pooled.ndim - 1) + [(size // 2, size // 2)]
    padded = jnp.pad(pooled, pad)
    # A handful of shifted copies: no convolution primitive for three taps over one row.
    return jax.nn.sigmoid(sum(kernel[i] * padded[..., i : i + features] for i in range(size)))


def eca_maps(x: Float[Array, "*B H W C"], params: ECAParams, *, window: Window = None) -> Maps:
    """The gate of `eca`: {"channel": (..., 1, 1, C), or (..., H, W, C) over a window}.

    Takes the arguments of `eca`, and raises what it raises.
    """
    x = _check_eca(x, params)
    return over_mesh(
        lambda x, params: {"channel": _eca_gate(x, params, window)}, x, params, like_x=False
    )


def cbam(
    x: Float[Array, "*B H W C"], params: CBAMParams, *, window: Window = None
) -> Float[Array, "*B H W C"]:
    """Convolutional block attention: a gate for each channel, then one for each position.

        y = x * sigmoid(mlp(mean_HW(x)) + mlp(max_HW(x)))
        out = y * sigmoid(conv([mean_C(y), max_C(y)]))

    with one two-layer `mlp(v) = expand(relu(reduce(v)))` for both, and a convolution that sees
    zeros outside the map. Costs four passes and 2 C R + R + C + 2 K^2 + 1 parameters; the K x K
    convolution has two channels only. Pays where noise or content sits in places as well as in
    channels. The maximum over H x W follows single noisy pixels: on strong noise try "dual", which
    has none.

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
    x = _check("cbam", x, params)

    def compute(x, params):
        _, y, by_place = _cbam_terms(x, params, window)
        return (y * by_place).astype(x.dtype)

    return over_mesh(compute, x, params)


def _cbam_terms(x: Array, params: CBAMParams, window: Window) -> tuple[Array, Array, Array]:
    """The gate of the channels, what is left of x by it, and the gate of the positions."""
    params = params_for(x, params)
    largest = widened(spatial_max(x, window=window))
    logits = _two_dense(spatial_mean(x, window=window), params) + _two_dense(largest, params)
    by_channel = jax.nn.sigmoid(logits)
    y = widened(x) * by_channel
    return by_channel, y, _mean_and_max_gate(y, params)


def cbam_maps(x: Float[Array, "*B H W C"], params: CBAMParams, *, window: Window = None) -> Maps:
    """The gates of `cbam`, whose product with x it is.

    Takes the arguments of `cbam`, and raises what it raises.

    Returns:
      {"channel": (..., 1, 1, C), or (..., H, W, C) over a window, "spatial": (..., H, W, 1)}.
    """
    x = _check("cbam", x, params)

    def compute(x, params):
        by_channel, _, by_place = _cbam_terms(x, params, window)
        return {"channel": by_channel, "spatial": by_place}

    return over_mesh(compute, x, params, like_x=False)


def sge(
    x: Float[Array, "*B H W C"],
    params: SGEParams,
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Float[Array, "*B H W C"]:
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
    x = _check_sge(x, params)

    def compute(x, params):
        groups = params.weight.size
        grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        gate = _sge_gate(x, params, epsilon, window)
        return _multiplied(grouped, gate[..., None]).reshape(x.shape)

    return over_mesh(compute, x, params)


def _check_sge(x: Any, params: SGEParams) -> jax.Array:
    x, groups = check_map("sge", x), params.weight.size
    check_groups("sge", x.shape[-1], groups)
    check_shapes("sge", x.shape[-1], params, weight=(groups,), bias=(groups,))
    return x


def _sge_gate(x: Array, params: SGEParams, epsilon: float, window: Window) -> Array:
    weight, bias = (per_channel(vector, x.ndim) for vector in params_for(x, params))
    grouped = (*x.shape[:-1], weight.size, x.shape[-1] // weight.size)
    products = widened(x) * spatial_mean(x, window=window)
    agreement = jnp.sum(products.reshape(grouped), axis=-1)
    centred, variance = centred_and_variance(agreement, window=window)
    return jax.nn.sigmoid(weight * (centred * jax.lax.rsqrt(variance + epsilon)) + bias)


def sge_maps(
    x: Float[Array, "*B H W C"],
    params: SGEParams,
    *,
    epsilon: float = 1e-5,
    window: Window = None,
) -> Maps:
    """The gates of `sge`: {"group": (..., H, W, G)}, each for the channels of its group.

    Takes the arguments of `sge`, and raises what it raises.
    """
    x = _check_sge(x, params)
    return over_mesh(
        lambda x, params: {"group": _sge_gate(x, params, epsilon, window)}, x, params, like_x=False
    )


def dual_attention(
    x: Float[Array, "*B H W C"], params: DualAttentionParams, *, window: Window = None
) -> Float[Array, "*B H W C"]:
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
    x = _check("dual_attention", x, params)

    def compute(x, params):
        by_channel, by_place = _dual_gates(x, params, window)
        wide, params = widened(x), params_for(x, params)
        both = jnp.concatenate([wide * by_place, wide * by_channel], axis=-1)
        return _affine(both, params.merge_kernel, params.merge_bias).astype(x.dtype)

    return over_mesh(compute, x, params)


def _dual_gates(x: Array, params: DualAttentionParams, window: Window) -> tuple[Array, Array]:
    return _channel_gate(x, params, window), _mean_and_max_gate(widened(x), params_for(x, params))


def dual_attention_maps(
    x: Float[Array, "*B H W C"], params: DualAttentionParams, *, window: Window = None
) -> Maps:
    """The gates of `dual_attention`'s two branches.

    Takes the arguments of `dual_attention`, and raises what it raises.

    Returns:
      {"channel": (..., 1, 1, C), or (..., H, W, C) over a window, "spatial": (..., H, W, 1)}.
    """
    x = _check("dual_attention", x, params)

    def compute(x, params):
        return dict(zip(("channel", "spatial"), _dual_gates(x, params, window), strict=True))

    return over_mesh(compute, x, params, like_x=False)
