"""Checks that maps, sizes and parameters fit: what was given, what is allowed, what to do."""

import operator
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

# Groups of channels where nobody says how many: as many as fit, up to this.
_MOST_GROUPS = 8


def check_floating(kind: str, x: Any, name: str = "the map") -> jax.Array:
    """`x` as a JAX array.

    Raises:
      ValueError: where it does not hold real floating-point numbers.
    """
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        given = getattr(x, "dtype", type(x).__name__)
        raise ValueError(
            f"{kind}: {name} must be an array of floating-point numbers; got {given}. Convert it "
            f"first, x.astype(jnp.float32), and a picture of 8 bits to [0, 1]: "
            f"x.astype(jnp.float32) / 255."
        )
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def check_map(kind: str, x: Any, features: int | None = None) -> jax.Array:
    """`x`, a feature map, as a JAX array.

    Args:
      kind: what takes the map, for the message.
      x: the map.
      features: channels that it must have; None for any number.

    Raises:
      ValueError: where it is not (..., H, W, C) with `features` channels, none of the three 0, or
        does not hold floating-point numbers.
    """
    x = check_floating(kind, x)
    if x.ndim < 3 or 0 in x.shape[-3:]:
        raise ValueError(
            f"{kind}: a map is (..., H, W, C), with at least one row, column and channel; got "
            f"shape {x.shape}."
        )
    if features is not None and x.shape[-1] != features:
        first = (
            " That looks like channels first; maps here have them last: jnp.moveaxis(x, -3, -1)."
            if x.shape[-3] == features
            else ""
        )
        raise ValueError(
            f"{kind}: built for maps of {features} channels, (..., H, W, {features}); got shape "
            f"{x.shape}.{first} Build the layer for {x.shape[-1]} features, or give it the map "
            f"that it was built for."
        )
    return x


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


def check_size(kind: str, name: str, size: Any) -> int:
    """`size` as an int.

    Raises:
      ValueError: unless it is an integer of at least 1.
    """
    try:
        number = 0 if isinstance(size, bool) else operator.index(size)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{kind}: {name} must be an integer of at least 1; got {size!r}.")
    return number


def check_odd(kind: str, size: int) -> None:
    """Raises ValueError unless `size` is an odd number of at least 1."""
    if size < 1 or size % 2 == 0:
        raise ValueError(
            f"{kind}: the convolution must be centred, so its size must be odd (1, 3, 5, ...); "
            f"got {size}."
        )


def is_whole(number: Any) -> TypeGuard[int]:
    """Whether it is an integer, Python's or NumPy's, and no bool."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def fitting_groups(features: int, parts: int = 1) -> list[int]:
    """The numbers of groups that split `features` channels into groups of `parts` equal parts."""
    return [g for g in range(1, features // parts + 1) if features % (parts * g) == 0]


def default_groups(features: int, parts: int = 1) -> int:
    """The most groups, up to 8, that fit `features` channels; 1 where none does."""
    fits = [g for g in fitting_groups(features, parts) if g <= _MOST_GROUPS]
    return max(fits, default=1)


def check_groups(kind: str, features: int, groups: Any, parts: int = 1) -> None:
    """Raises ValueError, listing the groups that would fit, unless parts * groups divide features.

    Args:
      kind: what splits the channels, for the message.
      features: channels of the map.
      groups: the number of groups.
      parts: how many equal parts each group is split into: 2 in shuffle attention.
    """
    if not is_whole(groups) or groups < 1 or features % (parts * groups):
        fits = fitting_groups(features, parts)
        advice = (
            f"groups that fit {features} channels: {', '.join(map(str, fits))}"
            if fits
            else f"no number of groups fits {features} channels: use an even number of channels"
        )
        rule = (
            f"splits every group into {parts} equal parts, so channels must be divisible by {parts}"
            f" * groups"
            if parts > 1
            else "splits the channels into equal groups"
        )
        raise ValueError(f"{kind} {rule}; got {features} channels and groups={groups!r}; {advice}.")
