"""The layer of shuffle attention: parameters, and one call into `sa_flax.functional`."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.functional import (
    ShuffleAttentionParams,
    shuffle_attention,
    shuffle_attention_maps,
)
from sa_flax.functional._shuffle.api import Implementation
from sa_flax.functional.statistics import WindowLike, check_window
from sa_flax.modules.layer import Attention, Dtype, Inits, Maps


class ShuffleAttention(Attention):
    """Shuffle attention (SA-Net): see `sa_flax.functional.shuffle_attention`.

    Holds six vectors of length k = features / (2 groups), 3 features / groups numbers in all,
    started as in the paper's code: weights 0, biases 1, norm scale 1 and bias 0. A fresh layer
    therefore multiplies everything by sigmoid(1) = 0.731.

    Args:
      features: channels C of the map.
      groups: number of groups; 2 * groups must divide `features`. None takes the most, up to 8,
        that fit. The paper has 64, for the hundreds of channels of a classifier.
      epsilon: added to the variance in the group norm.
      window: (height, width) that statistics are taken over; None for the whole map.
      implementation: which code computes it, see `sa_flax.functional.shuffle_attention`.
      inits: initialisers of single parameters by name, see `sa_flax.modules.layer.Attention`.
      dtype: dtype of the computation and the result; None keeps the map's.
      param_dtype: dtype of the parameters.
      rngs: accepted as every layer does; nothing is drawn from it but for `inits`.

    Raises:
      ValueError: where 2 * groups does not divide features; the groups that fit are listed.

    Zhang and Yang, ICASSP 2021, https://arxiv.org/abs/2102.00240.
    """

    kind = "shuffle_attention"
    params_class = ShuffleAttentionParams
    channel_weight: nnx.Param[Array]
    channel_bias: nnx.Param[Array]
    spatial_weight: nnx.Param[Array]
    spatial_bias: nnx.Param[Array]
    norm_scale: nnx.Param[Array]
    norm_bias: nnx.Param[Array]

    def __init__(
        self,
        features: int,
        *,
        groups: int | None = None,
        epsilon: float = 1e-5,
        window: WindowLike = None,
        implementation: Implementation | None = None,
        inits: Inits | None = None,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        parameters = ShuffleAttentionParams.parameters(features, groups=groups)
        super().__init__(
            features,
            parameters,
            inits=inits,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.groups = features // (2 * parameters["norm_bias"].shape[0])
        self.epsilon, self.window = epsilon, check_window(window)
        self.implementation = implementation

    def __call__(self, x: Float[Array, "*B H W C"]) -> Float[Array, "*B H W C"]:
        return shuffle_attention(
            self._map(x),
            self.params(),
            groups=self.groups,
            epsilon=self.epsilon,
            window=self.window,
            implementation=self.implementation,
        )

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """The gates of both halves of the channels: `functional.shuffle_attention_maps`."""
        return shuffle_attention_maps(
            self._map(x),
            self.params(),
            groups=self.groups,
            epsilon=self.epsilon,
            window=self.window,
        )
