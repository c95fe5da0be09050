"""Checks that parameters fit the map that they are applied to."""

from typing import Any


def check_shapes(kind: str, features: int, params: Any, **expected: tuple[int, ...]) -> None:
    """Raises ValueError, naming all three shapes, where a parameter does not fit `features`.

    Args:
      kind: what the parameters belong to, for the message.
      features: channels of the map.
      params: a NamedTuple of arrays.
      **expected: the shape that each field must have.
    """
    for name, shape in expected.items():
        array = getattr(params, name)
        if array is None:
            raise ValueError(f"{kind} needs {name}, of shape {shape}; got None.")
        if array.shape != shape:
            raise ValueError(
                f"{kind}: {name} has shape {array.shape}, but a map of {features} channels (with "
                f"the other parameters' sizes) needs {shape}. Build the layer for {features} "
                f"features, or give it the map that it was built for."
            )
