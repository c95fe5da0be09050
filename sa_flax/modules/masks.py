"""Layers of the mask family: parameters, and one call into `sa_flax.functional.gating`.

Every layer maps (..., H, W, C) to the same shape and dtype. `window` is an attribute, so that it
can be set on a trained network (`sa_flax.modules.attention.set_window`).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import initializers
from jaxtyping import Array, Float

from sa_flax.functional.gating import (
    CBAMParams,
    DualAttentionParams,
    ECAParams,
    SGEParams,
    SqueezeExciteParams,
    cbam,
    check_divides,
    check_odd,
    dual_attention,
    eca,
    eca_kernel_size,
    sge,
    squeeze_excite,
)
from sa_flax.functional.pooling import Window, check_window

Dtype = jax.typing.DTypeLike
_lecun_normal = initializers.lecun_normal()


def check_reduction(reduction: int) -> None:
    """Raises ValueError unless `reduction` is an integer of at least 1."""
    if isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1:
        raise ValueError(
            f"reduction divides the number of channels for the hidden layer and must be an integer "
            f"of at least 1; got {reduction!r}."
        )


class _ChannelGate(nnx.Module):
    """The two dense layers C -> R -> C that several kinds have."""

    def __init__(
        self,
        features: int,
        *,
        reduction: int,
        window: Window,
        kernel_init: initializers.Initializer,
        param_dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        check_reduction(reduction)
        check_window(window)
        hidden = max(features // reduction, 1)
        self.features, self.window = features, window
        self.reduce_kernel = nnx.Param(kernel_init(rngs.params(), (features, hidden), param_dtype))
        self.reduce_bias = nnx.Param(jnp.zeros((hidden,), param_dtype))
        self.expand_kernel = nnx.Param(kernel_init(rngs.params(), (hidden, features), param_dtype))
        self.expand_bias = nnx.Param(jnp.zeros((features,), param_dtype))


class SqueezeExcite(_ChannelGate):
    """Squeeze and excitation: see `sa_flax.functional.squeeze_excite`.

    Args:
      features: channels C of the map.
      reduction: the hidden layer has max(features // reduction, 1) units.
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of both dense layers; biases start at 0.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 16,
        window: Window = None,
        kernel_init: initializers.Initializer = _lecun_normal,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            reduction=reduction,
            window=window,
            kernel_init=kernel_init,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = SqueezeExciteParams(
            *(getattr(self, name)[...] for name in SqueezeExciteParams._fields)
        )
        return squeeze_excite(x, params, window=self.window)


class ECA(nnx.Module):
    """Efficient channel attention: see `sa_flax.functional.eca`.

    Args:
      features: channels C of the map.
      kernel_size: how many neighbouring channels a gate sees, odd; None for the paper's choice by
        `features` (3 up to 127 channels, then 5).
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of the convolution, which has no bias.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        kernel_size: int | None = None,
        window: Window = None,
        kernel_init: initializers.Initializer = _lecun_normal,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        size = eca_kernel_size(features) if kernel_size is None else kernel_size
        check_odd("eca", size)
        check_window(window)
        self.features, self.window = features, window
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, 1), param_dtype)[:, 0])

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        return eca(x, ECAParams(self.kernel[...]), window=self.window)


class CBAM(_ChannelGate):
    """Convolutional block attention: see `sa_flax.functional.cbam`.

    Args:
      features: channels C of the map.
      reduction: the hidden layer has max(features // reduction, 1) units.
      kernel_size: side of the spatial gate's convolution, odd.
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of dense layers and convolution; biases start at 0.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        window: Window = None,
        kernel_init: initializers.Initializer = _lecun_normal,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_odd("cbam", kernel_size)
        super().__init__(
            features,
            reduction=reduction,
            window=window,
            kernel_init=kernel_init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        kernel = kernel_init(rngs.params(), (kernel_size, kernel_size, 2, 1), param_dtype)
        self.spatial_kernel = nnx.Param(kernel[..., 0])
        self.spatial_bias = nnx.Param(jnp.zeros((), param_dtype))

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = CBAMParams(*(getattr(self, name)[...] for name in CBAMParams._fields))
        return cbam(x, params, window=self.window)


class SGE(nnx.Module):
    """Spatial group-wise enhance: see `sa_flax.functional.sge`.

    Weights start at 0 and biases at 1, as in the authors' code: a fresh layer multiplies everything
    by sigmoid(1) = 0.731.

    Args:
      features: channels C of the map.
      groups: number of groups, which must divide `features`.
      epsilon: added to the variance.
      window: (height, width) that statistics are taken over; None for the whole map.
      param_dtype: dtype of the parameters.
      rngs: accepted as every layer does; nothing is drawn from it.
    """

    def __init__(
        self,
        features: int,
        *,
        groups: int = 8,
        epsilon: float = 1e-5,
        window: Window = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        check_divides("sge", features, groups)
        check_window(window)
        self.features, self.groups, self.epsilon, self.window = features, groups, epsilon, window
        self.weight = nnx.Param(jnp.zeros((groups,), param_dtype))
        self.bias = nnx.Param(jnp.ones((groups,), param_dtype))

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = SGEParams(self.weight[...], self.bias[...])
        return sge(x, params, epsilon=self.epsilon, window=self.window)


class DualAttention(_ChannelGate):
    """Dual attention of CycleISP and MIRNet: see `sa_flax.functional.dual_attention`.

    Args:
      features: channels C of the map.
      reduction: the hidden layer has max(features // reduction, 1) units.
      kernel_size: side of the spatial branch's convolution, odd.
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of dense layers and convolutions; biases start at 0.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 8,
        kernel_size: int = 5,
        window: Window = None,
        kernel_init: initializers.Initializer = _lecun_normal,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_odd("dual_attention", kernel_size)
        super().__init__(
            features,
            reduction=reduction,
            window=window,
            kernel_init=kernel_init,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        kernel = kernel_init(rngs.params(), (kernel_size, kernel_size, 2, 1), param_dtype)
        self.spatial_kernel = nnx.Param(kernel[..., 0])
        self.spatial_bias = nnx.Param(jnp.zeros((), param_dtype))
        self.merge_kernel = nnx.Param(
            kernel_init(rngs.params(), (2 * features, features), param_dtype)
        )
        self.merge_bias = nnx.Param(jnp.zeros((features,), param_dtype))

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = DualAttentionParams(
            *(getattr(self, name)[...] for name in DualAttentionParams._fields)
        )
        return dual_attention(x, params, window=self.window)
