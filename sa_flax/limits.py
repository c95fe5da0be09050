"""Numbers that options take on the command line and in configurations."""

import math

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
