"""Layers of the affinity family: parameters, and one call into `sa_flax.functional.affinity`.

Every layer maps (..., H, W, C) to the same shape and dtype, and begins as the identity.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import initializers
from jaxtyping import Array, Float

from sa_flax.functional.affinity import (
    AFFINITIES,
    Affinity,
    DANetParams,
    NonLocalParams,
    SelfAttentionParams,
    danet,
    non_local,
    self_attention,
)
from sa_flax.modules.masks import check_reduction

Dtype = jax.typing.DTypeLike
_lecun_normal = initializers.lecun_normal()


class NonLocal(nnx.Module):
    """Non-local block: see `sa_flax.functional.non_local`.

    The last convolution starts at 0, so that a fresh layer returns its input.

    Args:
      features: channels C of the map.
      bottleneck: channels B of queries, keys and values; None for max(features // 2, 1).
      affinity: "embedded_gaussian", "gaussian", "dot_product" or "concatenation".
      subsample: keys and values are maxima over blocks of so many positions squared.
      block_size: queries at a time; None lets `sa_flax.functional.attend` choose.
      kernel_init: initialiser of the 1 x 1 convolutions but the last; biases start at 0.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.

    Raises:
      ValueError: for an unknown affinity, or a bottleneck or subsampling of less than 1.
    """

    def __init__(
        self,
        features: int,
        *,
        bottleneck: int | None = None,
        affinity: Affinity = "embedded_gaussian",
        subsample: int = 1,
        block_size: int | None = None,
        kernel_init: initializers.Initializer = _lecun_normal,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if affinity not in AFFINITIES:
            raise ValueError(f"affinity must be one of {', '.join(AFFINITIES)}; got {affinity!r}.")
        width = max(features // 2, 1) if bottleneck is None else bottleneck
        for name, size in {"bottleneck": width, "subsample": subsample}.items():
            if size < 1:
                raise ValueError(f"non_local: {name} must be at least 1; got {size}.")
        self.features, self.affinity, self.subsample = features, affinity, subsample
        self.block_size = block_size

        def kernel() -> nnx.Param:
            return nnx.Param(kernel_init(rngs.params(), (features, width), param_dtype))

        def zeros(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, param_dtype))

        self.value_kernel, self.value_bias = kernel(), zeros(width)
        self.out_kernel, self.out_bias = zeros(width, features), zeros(features)
        # Which of the optional parameters there are depends on the affinity: see NonLocalParams.
        if affinity != "gaussian":
            self.query_kernel, self.query_bias = kernel(), zeros(width)
            self.key_kernel = kernel()
        if affinity in ("dot_product", "concatenation"):
            self.key_bias = zeros(width)
        if affinity == "concatenation":
            pair = kernel_init(rngs.params(), (2 * width, 1), param_dtype)
            self.pair_kernel = nnx.Param(pair[:, 0])

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = NonLocalParams(
            **{
                name: getattr(self, name)[...]
                for name in NonLocalParams._fields
                if hasattr(self, name)
            }
        )
        return non_local(
            x,
            params,
            affinity=self.affinity,
            subsample=self.subsample,
            block_size=self.block_size,
        )


class SelfAttention(nnx.Module):
    """SAGAN's self-attention: see `sa_flax.functional.self_attention`.

    Queries and keys have max(features // reduction, 1) channels, values max(features // 2, 1).

    Args:
      features: channels C of the map.
      reduction: how much narrower queries and keys are than the map.
      block_size: queries at a time; None lets `sa_flax.functional.attend` choose.
      kernel_init: initialiser of the 1 x 1 convolutions; gamma starts at 0.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 8,
        block_size: int | None = None,
        kernel_init: initializers.Initializer = _lecun_normal,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_reduction(reduction)
        depth, width = max(features // reduction, 1), max(features // 2, 1)
        self.features, self.block_size = features, block_size
        self.query_kernel = nnx.Param(kernel_init(rngs.params(), (features, depth), param_dtype))
        self.key_kernel = nnx.Param(kernel_init(rngs.params(), (features, depth), param_dtype))
        self.value_kernel = nnx.Param(kernel_init(rngs.params(), (features, width), param_dtype))
        self.out_kernel = nnx.Param(kernel_init(rngs.params(), (width, features), param_dtype))
        self.gamma = nnx.Param(jnp.zeros((), param_dtype))

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = SelfAttentionParams(
            *(getattr(self, name)[...] for name in SelfAttentionParams._fields)
        )
        return self_attention(x, params, block_size=self.block_size)


class DANet(nnx.Module):
    """Position and channel attention, summed: see `sa_flax.functional.danet`.

    Queries and keys have max(features // reduction, 1) channels; values keep all.

    Args:
      features: channels C of the map.
      reduction: how much narrower queries and keys are than the map.
      block_size: queries at a time; None lets `sa_flax.functional.attend` choose.
      kernel_init: initialiser of the 1 x 1 convolutions; biases and both scales start at 0.
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.
    """

    def __init__(
        self,
        features: int,
        *,
        reduction: int = 8,
        block_size: int | None = None,
        kernel_init: initializers.Initializer = _lecun_normal,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_reduction(reduction)
        depth = max(features // reduction, 1)
        self.features, self.block_size = features, block_size
        self.query_kernel = nnx.Param(kernel_init(rngs.params(), (features, depth), param_dtype))
        self.query_bias = nnx.Param(jnp.zeros((depth,), param_dtype))
        self.key_kernel = nnx.Param(kernel_init(rngs.params(), (features, depth), param_dtype))
        self.value_kernel = nnx.Param(kernel_init(rngs.params(), (features, features), param_dtype))
        self.value_bias = nnx.Param(jnp.zeros((features,), param_dtype))
        self.position_scale = nnx.Param(jnp.zeros((), param_dtype))
        self.channel_scale = nnx.Param(jnp.zeros((), param_dtype))

    def __call__(self, x: Float[Array, "... H W C"]) -> Float[Array, "... H W C"]:
        params = DANetParams(*(getattr(self, name)[...] for name in DANetParams._fields))
        return danet(x, params, block_size=self.block_size)
