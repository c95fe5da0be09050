"""Numbers that options take on the command line and in configurations."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any

from sa_flax.errors import InputError

# Twice the whole range: nothing is left to denoise there, and values stay within what `Denoiser`
# takes for a picture in [0, 1].
LARGEST_LEVEL = 510.0

# Bytes that a checkpoint may take in memory unless asked otherwise: a hundred times the networks
# here.
LARGEST_CHECKPOINT = 4 * 2**30


def check_level(option: str, level: float) -> None:
    """Raises InputError where `level`, a noise level on the 0-255 scale, can't be used."""
    if level < 0:
        raise InputError(f"{option} can't be negative; got {level:g}.")
    if not level <= LARGEST_LEVEL:  # NaN is not, either
        raise InputError(
            f"{option} must be a number from 0 to {LARGEST_LEVEL:g}, on the 0-255 scale; got "
            f"{level:g}."
        )


def check_seed(option: str, seed: int) -> None:
    """Raises InputError where random generators don't take `seed`."""
    if not 0 <= seed < 2**32:
        raise InputError(f"{option} must be from 0 to {2**32 - 1}; got {seed}.")


def check_finite(option: str, value: float) -> None:
    """Raises InputError where `value` is infinite or not a number."""
    if not math.isfinite(value):
        raise InputError(f"{option} must be a finite number; got {value}.")


@dataclasses.dataclass(frozen=True)
class Limit:
    """What the numbers of a field may be; stands in the field's annotation.

    `steps: Annotated[int, Limit(1)]`. Of a tuple, every entry must be within.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """`low` itself is not allowed."""
    below: bool = False
    """`high` itself is not allowed."""

    def check(self, option: str, value: float) -> None:
        """Raises InputError, naming the option, where `value` is outside."""
        low_fails = value <= self.low if self.above else value < self.low
        high_fails = value >= self.high if self.below else value > self.high
        if not (low_fails or high_fails):
            return
        if self.low == 0 and low_fails and not self.above:
            raise InputError(f"{option} can't be negative; got {value:g}.")
        if low_fails:
            how = f"{'above' if self.above else 'at least'} {self.low:g}"
        else:
            how = f"below {self.high:g}" if self.below else f"at most {self.high:g}"
        raise InputError(f"{option} must be {how}; got {value:g}.")


class _Level(Limit):
    """A noise level on the 0-255 scale."""

    def check(self, option: str, value: float) -> None:
        check_level(option, value)


class Increasing:
    """A pair, the lowest value first."""

    def check(self, option: str, value: tuple[float, float]) -> None:
        """Raises InputError where the first is the larger one."""
        low, high = value
        if not low <= high:
            raise InputError(f"{option} needs lowest <= highest; got {low:g} {high:g}.")


AT_LEAST_ONE = Limit(1)
ABOVE_ZERO = Limit(0, above=True)
NOT_NEGATIVE = Limit(0)
SHARE = Limit(0, 1)
LEVEL = _Level()
INCREASING = Increasing()


def check_fields(settings: Any, prefix: str | None = "") -> None:
    """Holds every number in nested dataclasses to the limits in its field's annotation.

    Options are named as on the command line: field `crop` of entry `data` is --data.crop. With a
    prefix of None they are named as in Python.

    Raises:
      InputError: for a number outside its limits, infinite or NaN, or beyond 32 bits, and for
        shares of one whole (the class's `of_one_whole`) that come to more than 1.
    """
    for name, value, hint in _fields(settings):
        option = name if prefix is None else f"--{prefix}{name}".replace("_", "-")
        if dataclasses.is_dataclass(value):
            check_fields(value, None if prefix is None else f"{prefix}{name}.")
            continue
        limits = getattr(hint, "__metadata__", ())
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            if isinstance(number, float):
                check_finite(option, number)
            elif name != "seed" and abs(number) >= 2**31:
                raise InputError(f"{option} can't be as large as {number}.")
            for limit in limits:
                if isinstance(limit, Limit):
                    limit.check(option, number)
        for limit in limits:
            if isinstance(limit, Increasing):
                limit.check(option, value)
    names = getattr(settings, "of_one_whole", ())
    whole = sum(getattr(settings, name) for name in names)
    if whole > 1 + 1e-6:
        options = list(names) if prefix is None else [f"--{prefix}{name}" for name in names]
        raise InputError(
            f"{', '.join(options[:-1])} and {options[-1]} are shares of one whole, and come to "
            f"{whole:g}. Lower some of them."
        )


def _fields(settings: Any) -> Iterator[tuple[str, Any, Any]]:
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        yield field.name, getattr(settings, field.name), hints[field.name]
