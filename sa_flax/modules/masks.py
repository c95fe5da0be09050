"""Layers of the mask family: parameters, and one call into `sa_flax.functional.masks`.

Every layer maps (..., H, W, C) to the same shape. `window` is an attribute, so that it can be set
on a trained network (`sa_flax.modules.layer.set_window`).
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional import (
    CBAMParams,
    DualAttentionParams,
    ECAParams,
    SGEParams,
    SqueezeExciteParams,
    cbam,
    cbam_maps,
    dual_attention,
    dual_attention_maps,
    eca,
    eca_maps,
    sge,
    sge_maps,
    squeeze_excite,
    squeeze_excite_maps,
)
from sa_flax.functional.initializers import Initializer, lecun_normal
from sa_flax.functional.mask_params import REDUCTION
from sa_flax.functional.statistics import WindowLike, check_window
from sa_flax.modules.layer import Attention, Dtype, Inits, Maps


class SqueezeExcite(Attention):
    """Squeeze and excitation: see `sa_flax.functional.squeeze_excite`.

    Args:
      features: channels C of the map.
      reduction: the hidden layer has max(features // reduction, 1) units. 4, where the
        paper has 16: so few ReLUs are often all dead at a denoiser's 24 or 32 features.
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of both dense layers; biases start at 0.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    kind = "squeeze_excite"
    params_class = SqueezeExciteParams
    reduce_kernel: nnx.Param[Array]
    reduce_bias: nnx.Param[Array]
    expand_kernel: nnx.Param[Array]
    expand_bias: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        reduction: int = REDUCTION,
        window: WindowLike = None,
        kernel_init: Initializer = lecun_normal,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            SqueezeExciteParams.parameters(features, reduction=reduction),
            kernel_init=kernel_init,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.window = check_window(window)

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return squeeze_excite(self._map(x), self.params(), window=self.window)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The gate: `functional.squeeze_excite_maps`."""
        return squeeze_excite_maps(self._map(x), self.params(), window=self.window)


class ECA(Attention):
    """Efficient channel attention: see `sa_flax.functional.eca`.

    Args:
      features: channels C of the map.
      kernel_size: how many neighbouring channels a gate sees, odd; None for the paper's choice by
        `features` (3 from 8 channels, 5 from 128, 7 from 2,048; below 8 it is 1).
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of the convolution, which has no bias.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    kind = "eca"
    params_class = ECAParams
    kernel: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        kernel_size: int | None = None,
        window: WindowLike = None,
        kernel_init: Initializer = lecun_normal,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            ECAParams.parameters(features, kernel_size=kernel_size),
            kernel_init=kernel_init,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.window = check_window(window)

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return eca(self._map(x), self.params(), window=self.window)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The gate: `functional.eca_maps`."""
        return eca_maps(self._map(x), self.params(), window=self.window)


class CBAM(Attention):
    """Convolutional block attention: see `sa_flax.functional.cbam`.

    Args:
      features: channels C of the map.
      reduction: the hidden layer has max(features // reduction, 1) units. 4, where the
        paper has 16: so few ReLUs are often all dead at a denoiser's 24 or 32 features.
      kernel_size: side of the spatial gate's convolution, odd.
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of dense layers and convolution; biases start at 0.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    kind = "cbam"
    params_class = CBAMParams
    reduce_kernel: nnx.Param[Array]
    reduce_bias: nnx.Param[Array]
    expand_kernel: nnx.Param[Array]
    expand_bias: nnx.Param[Array]
    spatial_kernel: nnx.Param[Array]
    spatial_bias: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        reduction: int = REDUCTION,
        kernel_size: int = 7,
        window: WindowLike = None,
        kernel_init: Initializer = lecun_normal,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            CBAMParams.parameters(features, reduction=reduction, kernel_size=kernel_size),
            kernel_init=kernel_init,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.window = check_window(window)

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return cbam(self._map(x), self.params(), window=self.window)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """Both gates: `functional.cbam_maps`."""
        return cbam_maps(self._map(x), self.params(), window=self.window)


class SGE(Attention):
    """Spatial group-wise enhance: see `sa_flax.functional.sge`.

    Weights start at 0 and biases at 1, as in the authors' code: a fresh layer multiplies everything
    by sigmoid(1) = 0.731.

    Args:
      features: channels C of the map.
      groups: number of groups, which must divide `features`; None for the most, up to 8, that do.
        The paper has 64, for the hundreds of channels of a classifier.
      epsilon: added to the variance.
      window: (height, width) that statistics are taken over; None for the whole map.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: accepted as every layer does; nothing is drawn from it but for `inits`.
    """

    kind = "sge"
    params_class = SGEParams
    weight: nnx.Param[Array]
    bias: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        groups: int | None = None,
        epsilon: float = 1e-5,
        window: WindowLike = None,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(
            features,
            SGEParams.parameters(features, groups=groups),
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.groups, self.epsilon = self.weight.shape[0], epsilon
        self.window = check_window(window)

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return sge(self._map(x), self.params(), epsilon=self.epsilon, window=self.window)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The gate of each group: `functional.sge_maps`."""
        return sge_maps(self._map(x), self.params(), epsilon=self.epsilon, window=self.window)


class DualAttention(Attention):
    """Dual attention of CycleISP and MIRNet: see `sa_flax.functional.dual_attention`.

    Args:
      features: channels C of the map.
      reduction: the hidden layer has max(features // reduction, 1) units. 4, where the
        papers have 16 and 8: so few ReLUs are often all dead at a denoiser's 24 or 32 features.
      kernel_size: side of the spatial branch's convolution, odd.
      window: (height, width) that statistics are taken over; None for the whole map.
      kernel_init: initialiser of dense layers and convolutions; biases start at 0.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    kind = "dual_attention"
    params_class = DualAttentionParams
    reduce_kernel: nnx.Param[Array]
    reduce_bias: nnx.Param[Array]
    expand_kernel: nnx.Param[Array]
    expand_bias: nnx.Param[Array]
    spatial_kernel: nnx.Param[Array]
    spatial_bias: nnx.Param[Array]
    merge_kernel: nnx.Param[Array]
    merge_bias: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        reduction: int = REDUCTION,
        kernel_size: int = 5,
        window: WindowLike = None,
        kernel_init: Initializer = lecun_normal,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            DualAttentionParams.parameters(features, reduction=reduction, kernel_size=kernel_size),
            kernel_init=kernel_init,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.window = check_window(window)

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return dual_attention(self._map(x), self.params(), window=self.window)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The gates of both branches: `functional.dual_attention_maps`."""
        return dual_attention_maps(self._map(x), self.params(), window=self.window)
