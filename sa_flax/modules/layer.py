"""What all attention layers share: parameters by name, and the checks of the map."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sa_flax.errors import InputError, nearest
from sa_flax.functional.checks import check_map
from sa_flax.functional.initializers import Initializer, lecun_normal
from sa_flax.functional.parameters import Parameter, start
from sa_flax.functional.statistics import WindowLike, check_window

Dtype = jax.typing.DTypeLike
Inits = Mapping[str, Initializer]
Maps = dict[str, Float[Array, "..."]]


class Attention(nnx.Module):
    """An attention layer: maps (..., H, W, C) to the same shape.

    Every kind takes these arguments besides its own:

    Args:
      features: channels C of the map.
      kernel_init: initialiser of all kernels that are drawn (kinds without kernels have none).
      inits: initialisers of single parameters, by the parameter's name, called with its key, shape
        and dtype. `nnx.with_partitioning(initialiser, names)` says how one is to be sharded.
      dtype: the map is cast to it before anything else, and the result has it; None keeps the map's
        own. What is pooled, gated or weighed is in float32 either way (float64 for float64).
      param_dtype: dtype of the parameters.
      rngs: the random streams that parameters are drawn from.

    Calling it raises ValueError where x is not (..., H, W, C) with C = features, or does not hold
    floating-point numbers.
    """

    # The pure function's name, for messages, and the class of its parameters.
    kind: ClassVar[str]
    params_class: ClassVar[Any]

    def __init__(
        self,
        features: int,
        parameters: Mapping[str, Parameter],
        *,
        kernel_init: Any = lecun_normal,
        inits: Inits | None,
        dtype: Dtype | None,
        param_dtype: Dtype,
        rngs: nnx.Rngs | None,
    ):
        self.features = features
        self.dtype = None if dtype is None else jnp.dtype(dtype)
        inits = inits or {}
        for name in inits:
            if name not in parameters:
                raise InputError(
                    f"{self.kind}: inits names {name!r}, which is no parameter of this layer."
                    f"{nearest(name, parameters)} Parameters: {', '.join(parameters)}."
                )
        for name, parameter in parameters.items():
            given = inits.get(name)
            key: Any = None
            if given is not None or parameter.start is None:
                if rngs is None:
                    raise InputError(
                        f"{self.kind}: {name} is drawn, so the layer needs rngs, e.g. nnx.Rngs(0)."
                    )
                key = rngs.params()
            if given is not None:
                value = given(key, parameter.shape, param_dtype)
            elif parameter.one_output:
                value = _drawn_with_output(parameter, key, kernel_init, param_dtype)
            else:
                value = start(parameter, key, kernel_init, param_dtype)
            setattr(self, name, nnx.Param(value))

    def params(self) -> Any:
        """The parameters as the pure function takes them."""
        held = {name: getattr(self, name, None) for name in self.params_class._fields}
        return self.params_class(
            **{name: variable[...] for name, variable in held.items() if variable is not None}
        )

    def _map(self, x: Any) -> jax.Array:
        """x, checked, in the dtype that the layer is to work in."""
        x = check_map(self.kind, x, self.features)
        return x if self.dtype is None else x.astype(self.dtype)

    def attention_maps(self, x: Float[Array, "*B H W C"]) -> Maps:
        """What the layer multiplies or weighs x by, to be looked at: gates or affinities by name.

        Those of the pure function of the same kind, e.g. `sa_flax.functional.cbam_maps`.
        """
        raise NotImplementedError


def set_window(module: nnx.Module, window: WindowLike) -> None:
    """Sets the window of every attention inside `module` that pools, in place.

    Args:
      module: a layer or a network; the window is the same at every level of it. To scale it with
        the resolution, and to leave the network as it is, see `AttentionUNet.with_window`.
      window: (height, width) around each pixel that statistics are taken over; None for the whole
        map. Attentions that pool nothing have no `window` and are left alone.

    Raises:
      ValueError: for anything else.
    """
    window = check_window(window)
    for _, layer in nnx.iter_modules(module):
        if hasattr(layer, "window"):
            layer.window = window


def _drawn_with_output(parameter: Parameter, key: Any, kernel_init: Any, dtype: Any) -> Any:
    """A kernel with one output, drawn with an axis for it, without that axis.

    Not by `start` of the pure functions: what `nnx.with_partitioning` makes is no array.
    """
    made = kernel_init(key, (*parameter.shape, 1), dtype)
    if not isinstance(made, nnx.VariableMetadata):
        return made[..., 0]
    names = made.metadata.get("out_sharding")
    metadata = dict(made.metadata)
    if names is not None and len(names) > len(parameter.shape):
        metadata["out_sharding"] = tuple(names)[: len(parameter.shape)]
    return dataclasses.replace(made, raw_value=made.raw_value[..., 0], metadata=metadata)
