"""What the U-Net is made of: a residual block with an attention slot, down- and up-sampling."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional.canvas import blank_beside
from sa_flax.functional.checks import check_floating, check_map
from sa_flax.functional.initializers import he_normal, lecun_normal, variance_scaling, zeros
from sa_flax.functional.statistics import statistics_dtype, widened
from sa_flax.modules.attention import Kind, make_attention
from sa_flax.modules.layer import Maps

Dtype = jax.typing.DTypeLike

# Plain initialisation everywhere but at the end of a residual branch (see ResidualBlock).
_small_normal = variance_scaling(0.02, "fan_in", "truncated_normal")


class Conv(nnx.Conv):
    """`nnx.Conv`, but its bias is added, and the bias's gradient summed, in the bias's own dtype.

    In bfloat16 the sum of a gradient over all positions of a batch, which is what a bias's gradient
    is, can be wrong by several percent: XLA's CPU compiler keeps the running sum in 8 bits.

    The result has the layer's dtype; where that is None, the wider one of the map's and the
    kernel's (float32 for bfloat16 and float16 together). Raises ValueError for maps that do not
    hold floating-point numbers, which `nnx.Conv` would take for numbers as large as they are.
    """

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("kernel_init", lecun_normal)
        kwargs.setdefault("bias_init", zeros)
        kwargs.setdefault("conv_general_dilated", _convolve_and_widen)
        super().__init__(*args, promote_dtype=_promote_but_bias, **kwargs)

    def __call__(
        self, inputs: Float[Array, "..."], out_sharding=None, *, relu: bool = False
    ) -> Float[Array, "..."]:
        """The convolution of a map; with `relu` the larger one of that and zero."""
        inputs = check_floating("convolution", inputs)
        dtype = self.dtype or wider(inputs.dtype, self.kernel.dtype)
        if self.padding == 1:
            inputs = blank_beside(inputs)
        y = super().__call__(inputs, out_sharding)
        return _rectified(y, dtype) if relu else y.astype(dtype)


def _promote_but_bias(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Map and kernel in one dtype, and the bias in the one that it is added in."""
    x, kernel, bias = arrays
    dtype = jnp.dtype(dtype or wider(x.dtype, kernel.dtype))
    bias = bias if bias is None else bias.astype(statistics_dtype(dtype))
    return x.astype(dtype), kernel.astype(dtype), bias


def _convolve_and_widen(*args: Any, **kwargs: Any) -> Array:
    """A convolution whose result has the dtype that the bias is added in."""
    return widened(jax.lax.conv_general_dilated(*args, **kwargs))


def _convolve_patches_and_widen(x: Array, kernel: Array, *_: Any, **options: Any) -> Array:
    """A 2 x 2 convolution with stride 2, whose result has the dtype that the bias is added in."""
    return widened(_convolve_patches(x, kernel))


@jax.custom_jvp
def _convolve_patches(x: Array, kernel: Array) -> Array:
    """A 2 x 2 convolution with stride 2.

    With respect to x its transpose is a product with the kernel for each place, put back patch by
    patch, and not a convolution of what was spread out by zeros, which takes four times the work.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@_convolve_patches.defjvp
def _convolve_patches_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    batch, height, width, features = dx.shape
    half = (height // 2, width // 2)
    patches = dx[:, : 2 * half[0], : 2 * half[1]].reshape(batch, half[0], 2, half[1], 2, features)
    of_x = jnp.einsum("bhiwjc,ijcd->bhwd", patches, kernel)
    return _convolve_patches(x, kernel), of_x + _convolve_patches(x, dkernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _rectified(x: Array, dtype: Any) -> Array:
    """`max(x, 0)` in `dtype`, with a slope that is told from the result, which is kept anyhow.

    So nothing else needs the convolution's own result, and oneDNN's takes the maximum in passing
    (asked whether y is above zero, XLA would look at x again).
    """
    return jnp.maximum(x, 0).astype(dtype)


@_rectified.defjvp
def _rectified_jvp(dtype: Any, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    y = _rectified(primals[0], dtype)
    slope = tangents[0].astype(dtype)
    return y, jnp.where(y != 0, slope, jnp.zeros_like(slope))


def wider(a: Any, b: Any) -> jnp.dtype:
    """What JAX promotes two dtypes to, also where it is forbidden to do so unasked."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def conv3x3(features_in: int, features_out: int, **kwargs) -> Conv:
    """A 3 x 3 convolution that keeps height and width (or, with strides=2, halves even ones)."""
    kwargs.setdefault("kernel_init", he_normal)
    return Conv(features_in, features_out, (3, 3), padding=1, **kwargs)


class ResidualBlock(nnx.Module):
    """`x + attention(conv(relu(conv(x))))`, without normalisation.

    The attention stands inside the branch, after the last convolution and before the sum, as in
    SA-Net and the dual-attention denoisers: it decides what is added to the features, and the
    features themselves pass unscaled. The last convolution starts small (a tenth of the usual
    standard deviation), so that a deep stack begins near the identity whatever its attention
    multiplies by at the start (0.731 for a fresh shuffle attention).

    Args:
      features: channels in and out.
      attention: kind of attention, a name that `make_attention` knows, or "none"; or a class or
        function that makes a layer, called as `attention(features, rngs=..., param_dtype=...)`.
      attention_options: keyword arguments of the attention layer.
      dtype: dtype of the computation; None takes it from the input and the parameters.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.

    The result has the wider dtype of the input's and the branch's.
    """

    def __init__(
        self,
        features: int,
        *,
        attention: Kind = "none",
        attention_options: Mapping[str, Any] | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.features = features
        self.conv1 = conv3x3(features, features, **kwargs)
        self.conv2 = conv3x3(features, features, kernel_init=_small_normal, **kwargs)
        self.attention = make_attention(
            attention, features, param_dtype=param_dtype, rngs=rngs, **(attention_options or {})
        )

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        y = self.attention(self._convolved(x))
        dtype = wider(x.dtype, y.dtype)
        return x.astype(dtype) + y.astype(dtype)

    def _convolved(self, x: Array) -> Array:
        """What the attention sees."""
        x = check_map("residual block", x, self.features)
        return self.conv2(self.conv1(x, relu=True))

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The gates or affinities of the block's attention, for the block's input x.

        Empty without attention, and where the attention has no method `attention_maps`.
        """
        show = getattr(self.attention, "attention_maps", None)
        return {} if show is None else show(self._convolved(x))


class Downsample(nnx.Module):
    """Halves height and width by a 2 x 2 convolution with stride 2."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            features_in,
            features_out,
            (2, 2),
            strides=2,
            padding=0,
            conv_general_dilated=_convolve_patches_and_widen,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H//2 W//2 D"]:
        return self.conv(check_map("downsampling", x, self.conv.in_features))


def pixel_shuffle(x: Float[Array, "*B H W D"]) -> Float[Array, "*B 2*H 2*W D//4"]:
    """Moves four channels into each 2 x 2 block of pixels, in PyTorch's order of channels.

    `out[2i + a, 2j + b, c] = x[i, j, 4c + 2a + b]`. Shi et al., CVPR 2016.
    """
    *lead, height, width, channels = x.shape
    blocks = x.reshape(*lead, height, width, channels // 4, 2, 2)
    rows_first = jnp.einsum("...ijcab->...iajbc", blocks)
    return rows_first.reshape(*lead, 2 * height, 2 * width, channels // 4)


class Upsample(nnx.Module):
    """Doubles height and width by a 1 x 1 convolution and a pixel shuffle.

    The same map as a 2 x 2 transposed convolution with stride 2, whose gradient is several times
    slower on CPUs.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            features_in,
            4 * features_out,
            (1, 1),
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B 2*H 2*W D"]:
        return pixel_shuffle(self.conv(check_map("upsampling", x, self.conv.in_features)))
