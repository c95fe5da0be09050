"""What the parameters of an attention are: their shapes, and how they start."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from jaxtyping import Array

from sa_flax.functional.initializers import Initializer, filled

Params = TypeVar("Params")


class Parameter(NamedTuple):
    """One array of parameters, before it is made.

    Attributes:
      shape: its shape.
      start: the number that it is filled with at the start; None for a kernel, which is drawn.
      one_output: a kernel with a single output, for which it has no axis. Initialisers count inputs
        and outputs on the last two axes: this one is drawn with an output axis of length 1.
    """

    shape: tuple[int, ...]
    start: float | None = None
    one_output: bool = False


def drawn(parameters: Mapping[str, Parameter]) -> list[str]:
    """The names of those parameters that are drawn, in their order."""
    return [name for name, parameter in parameters.items() if parameter.start is None]


def start(parameter: Parameter, key: Any, kernel_init: Initializer, dtype: Any) -> Array:
    """The array that `parameter` is at the start; `key` is of use where it is drawn only."""
    if parameter.start is not None:
        return filled(parameter.shape, parameter.start, dtype)
    if parameter.one_output:
        return kernel_init(key, (*parameter.shape, 1), dtype)[..., 0]
    return kernel_init(key, parameter.shape, dtype)


def start_all(
    params: type[Params],
    parameters: Mapping[str, Parameter],
    key: Any,
    kernel_init: Initializer,
    dtype: Any,
) -> Params:
    """A `params` with every array as it is at the start; each kernel is drawn by a key of its own.

    Fields that are not among `parameters` are None.
    """
    names = drawn(parameters)
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True)) if names else {}
    made = {
        name: start(parameter, keys.get(name), kernel_init, dtype)
        for name, parameter in parameters.items()
    }
    return params(**made)


def shapes(parameters: Mapping[str, Parameter]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: parameter.shape for name, parameter in parameters.items()}
