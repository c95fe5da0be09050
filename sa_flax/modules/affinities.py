"""Layers of the affinity family: parameters, and one call into `sa_flax.functional.affinities`.

Every layer maps (..., H, W, C) to the same shape, and begins as the identity.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional import (
    DANetParams,
    NonLocalParams,
    SelfAttentionParams,
    danet,
    danet_maps,
    non_local,
    non_local_maps,
    self_attention,
    self_attention_maps,
)
from sa_flax.functional.affinity_params import Affinity
from sa_flax.functional.checks import check_size
from sa_flax.functional.initializers import Initializer, lecun_normal
from sa_flax.modules.layer import Attention, Dtype, Inits, Maps


class NonLocal(Attention):
    """Non-local block: see `sa_flax.functional.non_local`.

    The last convolution starts at 0, so that a fresh layer returns its input.

    Args:
      features: channels C of the map.
      bottleneck: channels B of queries, keys and values; None for max(features // 2, 1).
      affinity: "embedded_gaussian", "gaussian", "dot_product" or "concatenation".
      subsample: keys and values are maxima over blocks of so many positions squared.
      block_size: queries at a time; None lets `sa_flax.functional.attend` choose.
      kernel_init: initialiser of the 1 x 1 convolutions but the last; biases start at 0.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.

    Raises:
      ValueError: for an unknown affinity, or a bottleneck or subsampling of less than 1.
    """

    kind = "non_local"
    params_class = NonLocalParams
    value_kernel: nnx.Param[Array]
    value_bias: nnx.Param[Array]
    out_kernel: nnx.Param[Array]
    out_bias: nnx.Param[Array]
    query_kernel: nnx.Param[Array]
    query_bias: nnx.Param[Array]
    key_kernel: nnx.Param[Array]
    key_bias: nnx.Param[Array]
    pair_kernel: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        bottleneck: int | None = None,
        affinity: Affinity = "embedded_gaussian",
        subsample: int = 1,
        block_size: int | None = None,
        kernel_init: Initializer = lecun_normal,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            NonLocalParams.parameters(features, bottleneck=bottleneck, affinity=affinity),
            kernel_init=kernel_init,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.affinity, self.block_size = affinity, block_size
        self.subsample = check_size("non_local", "subsample", subsample)

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return non_local(
            self._map(x),
            self.params(),
            affinity=self.affinity,
            subsample=self.subsample,
            block_size=self.block_size,
        )

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The affinity matrix: `functional.non_local_maps`."""
        return non_local_maps(
            self._map(x), self.params(), affinity=self.affinity, subsample=self.subsample
        )


class SelfAttention(Attention):
    """SAGAN's self-attention: see `sa_flax.functional.self_attention`.

    Queries and keys have max(features // reduction, 1) channels, values max(features // 2, 1).

    Args:
      features: channels C of the map.
      reduction: how much narrower queries and keys are than the map.
      block_size: queries at a time; None lets `sa_flax.functional.attend` choose.
      kernel_init: initialiser of the 1 x 1 convolutions; gamma starts at 0.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    kind = "self_attention"
    params_class = SelfAttentionParams
    query_kernel: nnx.Param[Array]
    key_kernel: nnx.Param[Array]
    value_kernel: nnx.Param[Array]
    out_kernel: nnx.Param[Array]
    gamma: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 8,
        block_size: int | None = None,
        kernel_init: Initializer = lecun_normal,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            SelfAttentionParams.parameters(features, reduction=reduction),
            kernel_init=kernel_init,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.block_size = block_size

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return self_attention(self._map(x), self.params(), block_size=self.block_size)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The affinity matrix: `functional.self_attention_maps`."""
        return self_attention_maps(self._map(x), self.params())


class DANet(Attention):
    """Position and channel attention, summed: see `sa_flax.functional.danet`.

    Queries and keys have max(features // reduction, 1) channels; values keep all.

    Args:
      features: channels C of the map.
      reduction: how much narrower queries and keys are than the map.
      block_size: queries at a time; None lets `sa_flax.functional.attend` choose.
      kernel_init: initialiser of the 1 x 1 convolutions; biases and both scales start at 0.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    kind = "danet"
    params_class = DANetParams
    query_kernel: nnx.Param[Array]
    query_bias: nnx.Param[Array]
    key_kernel: nnx.Param[Array]
    value_kernel: nnx.Param[Array]
    value_bias: nnx.Param[Array]
    position_scale: nnx.Param[Array]
    channel_scale: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 8,
        block_size: int | None = None,
        kernel_init: Initializer = lecun_normal,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            DANetParams.parameters(features, reduction=reduction),
            kernel_init=kernel_init,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.block_size = block_size

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return danet(self._map(x), self.params(), block_size=self.block_size)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """Both affinity matrices: `functional.danet_maps`."""
        return danet_maps(self._map(x), self.params())
