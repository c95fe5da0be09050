"""Parameters of the masks in `sa_flax.functional.masks`, and how they start."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sa_flax.functional.checks import check_groups, check_odd, check_size, default_groups
from sa_flax.functional.initializers import Initializer, lecun_normal
from sa_flax.functional.parameters import Parameter, start_all

Dtype = jax.typing.DTypeLike

# The channels of a map divided by the units of the hidden layer. The papers' 16 leaves one or two
# hidden units at a denoiser's 24 or 32 features, and ReLUs so few are often all dead from the
# start.
REDUCTION = 4


class SqueezeExciteParams(NamedTuple):
    """Two dense layers, C -> R -> C, of a squeeze-and-excitation gate."""

    reduce_kernel: Float[Array, "C R"]
    reduce_bias: Float[Array, " R"]
    expand_kernel: Float[Array, "R C"]
    expand_bias: Float[Array, " C"]

    @staticmethod
    def parameters(features: int, *, reduction: int = REDUCTION) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        return _dense("squeeze_excite", features, reduction)

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        reduction: int = REDUCTION,
        kernel_init: Initializer = lecun_normal,
        dtype: Dtype = jnp.float32,
    ) -> "SqueezeExciteParams":
        """Parameters to start from: kernels are drawn, biases are 0.

        Args:
          key: random key.
          features: channels C of the map.
          reduction: the hidden layer has R = max(features // reduction, 1) units; 16 in the paper.
          kernel_init: initialiser of the kernels, called with (key, shape, dtype).
          dtype: of the parameters.
        """
        parameters = cls.parameters(features, reduction=reduction)
        return start_all(cls, parameters, key, kernel_init, dtype)


class ECAParams(NamedTuple):
    """A convolution over neighbouring channels, of odd size K, without bias."""

    kernel: Float[Array, " K"]

    @staticmethod
    def parameters(features: int, *, kernel_size: int | None = None) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        size = eca_kernel_size(features) if kernel_size is None else kernel_size
        check_odd("eca", size)
        return {"kernel": Parameter((size,), one_output=True)}

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        kernel_size: int | None = None,
        kernel_init: Initializer = lecun_normal,
        dtype: Dtype = jnp.float32,
    ) -> "ECAParams":
        """Parameters to start from: the kernel is drawn.

        Args:
          key: random key.
          features: channels C of the map.
          kernel_size: length K of the kernel, odd; None for `eca_kernel_size(features)`.
          kernel_init: initialiser, called with (key, (K, 1), dtype).
          dtype: of the parameters.
        """
        parameters = cls.parameters(features, kernel_size=kernel_size)
        return start_all(cls, parameters, key, kernel_init, dtype)


class CBAMParams(NamedTuple):
    """The shared dense layers C -> R -> C of the channel gate; the K x K convolution 2 -> 1 of the
    spatial gate, whose inputs are the mean and the maximum of the channels."""

    reduce_kernel: Float[Array, "C R"]
    reduce_bias: Float[Array, " R"]
    expand_kernel: Float[Array, "R C"]
    expand_bias: Float[Array, " C"]
    spatial_kernel: Float[Array, "K K 2"]
    spatial_bias: Float[Array, ""]

    @staticmethod
    def parameters(
        features: int, *, reduction: int = REDUCTION, kernel_size: int = 7
    ) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        return _dense("cbam", features, reduction) | _spatial("cbam", kernel_size)

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        reduction: int = REDUCTION,
        kernel_size: int = 7,
        kernel_init: Initializer = lecun_normal,
        dtype: Dtype = jnp.float32,
    ) -> "CBAMParams":
        """Parameters to start from: kernels are drawn, biases are 0.

        Args:
          key: random key.
          features: channels C of the map.
          reduction: the hidden layer has R = max(features // reduction, 1) units; 16 in the paper.
          kernel_size: side K of the spatial gate's convolution, odd.
          kernel_init: initialiser of the kernels, called with (key, shape, dtype).
          dtype: of the parameters.
        """
        parameters = cls.parameters(features, reduction=reduction, kernel_size=kernel_size)
        return start_all(cls, parameters, key, kernel_init, dtype)


class SGEParams(NamedTuple):
    """Weight and bias of the gate of each of G groups; they start at 0 and 1."""

    weight: Float[Array, " G"]
    bias: Float[Array, " G"]

    @staticmethod
    def parameters(features: int, *, groups: int | None = None) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        check_size("sge", "features", features)
        groups = default_groups(features) if groups is None else groups
        check_groups("sge", features, groups)
        return {"weight": Parameter((groups,), 0.0), "bias": Parameter((groups,), 1.0)}

    @classmethod
    def init(
        cls, key: Any, features: int, *, groups: int | None = None, dtype: Dtype = jnp.float32
    ) -> "SGEParams":
        """Parameters as the authors' code starts them: weights 0, biases 1.

        Args:
          key: as for the other kinds; nothing is drawn from it, and it may be None.
          features: channels C of the map.
          groups: number of groups, which must divide C; None for the most, up to 8, that do.
          dtype: of the parameters.
        """
        return start_all(cls, cls.parameters(features, groups=groups), key, lecun_normal, dtype)


class DualAttentionParams(NamedTuple):
    """Dense layers C -> R -> C of the channel branch, K x K convolution 2 -> 1 of the spatial
    branch, and the 1 x 1 convolution 2C -> C that merges the two (spatial branch first)."""

    reduce_kernel: Float[Array, "C R"]
    reduce_bias: Float[Array, " R"]
    expand_kernel: Float[Array, "R C"]
    expand_bias: Float[Array, " C"]
    spatial_kernel: Float[Array, "K K 2"]
    spatial_bias: Float[Array, ""]
    merge_kernel: Float[Array, "2*C C"]
    merge_bias: Float[Array, " C"]

    @staticmethod
    def parameters(
        features: int, *, reduction: int = REDUCTION, kernel_size: int = 5
    ) -> dict[str, Parameter]:
        """Shapes and starts for `features` channels; see `init`."""
        kind = "dual_attention"
        return (
            _dense(kind, features, reduction)
            | _spatial(kind, kernel_size)
            | {"merge_kernel": Parameter((2 * features, features))}
            | {"merge_bias": Parameter((features,), 0.0)}
        )

    @classmethod
    def init(
        cls,
        key: Any,
        features: int,
        *,
        reduction: int = REDUCTION,
        kernel_size: int = 5,
        kernel_init: Initializer = lecun_normal,
        dtype: Dtype = jnp.float32,
    ) -> "DualAttentionParams":
        """Parameters to start from: kernels are drawn, biases are 0.

        Args:
          key: random key.
          features: channels C of the map.
          reduction: the hidden layer has R = max(features // reduction, 1) units; 16 in CycleISP, 8
            in MIRNet.
          kernel_size: side K of the spatial branch's convolution, odd.
          kernel_init: initialiser of the kernels, called with (key, shape, dtype).
          dtype: of the parameters.
        """
        parameters = cls.parameters(features, reduction=reduction, kernel_size=kernel_size)
        return start_all(cls, parameters, key, kernel_init, dtype)


def _dense(kind: str, features: int, reduction: int) -> dict[str, Parameter]:
    """The two dense layers C -> R -> C that several kinds have."""
    hidden = hidden_features(kind, features, reduction)
    return {
        "reduce_kernel": Parameter((features, hidden)),
        "reduce_bias": Parameter((hidden,), 0.0),
        "expand_kernel": Parameter((hidden, features)),
        "expand_bias": Parameter((features,), 0.0),
    }


def hidden_features(kind: str, features: int, reduction: int) -> int:
    """Channels of a layer `reduction` times narrower than the map, and of one at least.

    Raises:
      ValueError: unless both are integers of at least 1.
    """
    features = check_size(kind, "features", features)
    return max(features // check_size(kind, "reduction (of channels in between)", reduction), 1)


def _spatial(kind: str, size: int) -> dict[str, Parameter]:
    """The convolution from mean and maximum of the channels to one gate."""
    check_odd(kind, size)
    return {
        "spatial_kernel": Parameter((size, size, 2), one_output=True),
        "spatial_bias": Parameter((), 0.0),
    }


def eca_kernel_size(features: int) -> int:
    """ECA's adaptive size: the whole part of (log2(C) + 1) / 2, or one more to be odd."""
    check_size("eca", "features", features)
    size = int(abs((math.log2(features) + 1) / 2))
    return size if size % 2 else size + 1
