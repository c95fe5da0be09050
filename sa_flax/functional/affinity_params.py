"""Parameters of the affinities in `sa_flax.functional.affinities`, and how they start."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_size
from sa_flax.functional.initializers import Initializer, lecun_normal
from sa_flax.functional.mask_params import hidden_features
from sa_flax.functional.parameters import Parameter, start_all

Dtype = jax.typing.DTypeLike
Affinity = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
AFFINITIES: tuple[Affinity, ...] = (
    "embedded_gaussian",
    "gaussian",
    "dot_product",
    "concatenation",
)


class NonLocalParams(NamedTuple):
    """1 x 1 convolutions of a non-local block, C -> B for queries, keys, values, B -> C back.

    The Gaussian affinity has no queries and keys. A bias of the keys would cancel in a softmax, so
    only the other two have one. `pair_kernel` belongs to the concatenation.
    """

    value_kernel: Float[Array, "C B"]
    value_bias: Float[Array, " B"]
    out_kernel: Float[Array, "B C"]
    out_bias: Float[Array, " C"]
    query_kernel: Float[Array, "C B"] | None = None
    query_bias: Float[Array, " B"] | None = None
    key_kernel: Float[Array, "C B"] | None = None
    key_bias: Float[Array, " B"] | None = None
    pair_kernel: Float[Array, " 2*B"] | None = None

    @staticmethod
    def parameters(
        features: int, *, bottleneck: int | None = None, affinity: Affinity = "embedded_gaussian"
    ) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        if affinity not in AFFINITIES:
            raise ValueError(f"affinity must be one of {', '.join(AFFINITIES)}; got {affinity!r}.")
        check_size("non_local", "features", features)
        width = max(features // 2, 1) if bottleneck is None else bottleneck
        check_size("non_local", "bottleneck", width)
        kernel, bias = Parameter((features, width)), Parameter((width,), 0.0)
        made = {
            "value_kernel": kernel,
            "value_bias": bias,
            "out_kernel": Parameter((width, features), 0.0),
            "out_bias": Parameter((features,), 0.0),
        }
        if affinity != "gaussian":
            made |= {"query_kernel": kernel, "query_bias": bias, "key_kernel": kernel}
        if affinity in ("dot_product", "concatenation"):
            made |= {"key_bias": bias}
        if affinity == "concatenation":
            made |= {"pair_kernel": Parameter((2 * width,), one_output=True)}
        return made

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        bottleneck: int | None = None,
        affinity: Affinity = "embedded_gaussian",
        kernel_init: Initializer = lecun_normal,
        dtype: Dtype = jnp.float32,
    ) -> "NonLocalParams":
        """Parameters to start from: with them the result is the map itself. Kernels are drawn, but
        the last convolution is 0, as biases are.

        Args:
          key: random key.
          features: channels C of the map.
          bottleneck: channels B of queries, keys and values; None for max(features // 2, 1).
          affinity: which f; see `non_local`.
          kernel_init: initialiser of the kernels, called with (key, shape, dtype).
          dtype: of the parameters.

        Raises:
          ValueError: for an unknown affinity, or a bottleneck of less than 1.
        """
        parameters = cls.parameters(features, bottleneck=bottleneck, affinity=affinity)
        return start_all(cls, parameters, key, kernel_init, dtype)


class SelfAttentionParams(NamedTuple):
    """SAGAN's four 1 x 1 convolutions without bias, and gamma, which starts at 0."""

    query_kernel: Float[Array, "C D"]
    key_kernel: Float[Array, "C D"]
    value_kernel: Float[Array, "C E"]
    out_kernel: Float[Array, "E C"]
    gamma: Float[Array, ""]

    @staticmethod
    def parameters(features: int, *, reduction: int = 8) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        depth = hidden_features("self_attention", features, reduction)
        width = max(features // 2, 1)
        return {
            "query_kernel": Parameter((features, depth)),
            "key_kernel": Parameter((features, depth)),
            "value_kernel": Parameter((features, width)),
            "out_kernel": Parameter((width, features)),
            "gamma": Parameter((), 0.0),
        }

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        reduction: int = 8,
        kernel_init: Initializer = lecun_normal,
        dtype: Dtype = jnp.float32,
    ) -> "SelfAttentionParams":
        """Parameters to start from: with them the result is the map itself. Kernels are drawn, but
        gamma is 0.

        Args:
          key: random key.
          features: channels C of the map.
          reduction: how much narrower queries and keys are than the map: they have
            D = max(features // reduction, 1) channels, values
            E = max(features // 2, 1).
          kernel_init: initialiser of the kernels, called with (key, shape, dtype).
          dtype: of the parameters.
        """
        parameters = cls.parameters(features, reduction=reduction)
        return start_all(cls, parameters, key, kernel_init, dtype)


class DANetParams(NamedTuple):
    """1 x 1 convolutions of the position branch, and both branches' scales, which start at 0.

    A bias of the keys would cancel in the softmax; there is none.
    """

    query_kernel: Float[Array, "C D"]
    query_bias: Float[Array, " D"]
    key_kernel: Float[Array, "C D"]
    value_kernel: Float[Array, "C C"]
    value_bias: Float[Array, " C"]
    position_scale: Float[Array, ""]
    channel_scale: Float[Array, ""]

    @staticmethod
    def parameters(features: int, *, reduction: int = 8) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        depth = hidden_features("danet", features, reduction)
        return {
            "query_kernel": Parameter((features, depth)),
            "query_bias": Parameter((depth,), 0.0),
            "key_kernel": Parameter((features, depth)),
            "value_kernel": Parameter((features, features)),
            "value_bias": Parameter((features,), 0.0),
            "position_scale": Parameter((), 0.0),
            "channel_scale": Parameter((), 0.0),
        }

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        reduction: int = 8,
        kernel_init: Initializer = lecun_normal,
        dtype: Dtype = jnp.float32,
    ) -> "DANetParams":
        """Parameters to start from: with them the result is the map itself. Kernels are drawn, but
        biases and both scales are 0.

        Args:
          key: random key.
          features: channels C of the map.
          reduction: how much narrower queries and keys are than the map: they have
            D = max(features // reduction, 1) channels; values keep all.
          kernel_init: initialiser of the kernels, called with (key, shape, dtype).
          dtype: of the parameters.
        """
        parameters = cls.parameters(features, reduction=reduction)
        return start_all(cls, parameters, key, kernel_init, dtype)
