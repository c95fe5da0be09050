"""How large a picture may be, and what stands beside its pixels."""

import os

from sa_flax.errors import InputError

# As many pixels as are decoded unless told otherwise: a file of a few bytes can claim any size.
MOST_PIXELS = 178_956_970
VARIABLE = "SA_FLAX_MOST_PIXELS"

# What may stand beside the pixels: a profile, EXIF data or a text that is larger is left out.
MOST_COMPANION_BYTES = 16 * 2**20

# Uncompressed, a pixel takes at most this: four channels of 64 bits.
_BYTES_A_PIXEL = 32


def most_pixels(asked: int | None = None) -> int:
    """The limit that holds: `asked`, or the environment's SA_FLAX_MOST_PIXELS, or `MOST_PIXELS`.

    Raises:
      InputError: where it is no positive number.
    """
    if asked is None:
        text = os.environ.get(VARIABLE, "")
        if not text:
            return MOST_PIXELS
        if not text.isascii() or not text.isdigit():
            raise InputError(f"{VARIABLE} must be a number of pixels; got {text!r}.")
        asked = int(text)
    if asked < 1:
        raise InputError(f"at least one pixel must be allowed; got {asked}.")
    return asked


def check_size(width: int, height: int, limit: int, *, pages: int = 1) -> None:
    """Raises InputError for a picture whose header claims more pixels than `limit`."""
    if width < 1 or height < 1:
        raise InputError(f"not a readable picture (it claims to be {width} x {height} pixels).")
    count = width * height * pages
    if count > limit:
        each = f"{pages} pages of {width} x {height}" if pages > 1 else f"{width} x {height}"
        raise InputError(
            f"claims to have {each} pixels; at most {limit / 1e6:.0f} million pixels are decoded. "
            f"If it has them, raise the limit (the environment's {VARIABLE}={count}), or cut it "
            "into parts."
        )


def check_bytes(count: int, limit: int) -> None:
    """Raises InputError for a file that is larger than any picture of `limit` pixels can be."""
    most = limit * _BYTES_A_PIXEL + MOST_COMPANION_BYTES
    if count > most:
        raise InputError(
            f"is {count / 1e9:.1f} GB large; a picture of {limit / 1e6:.0f} million pixels, the "
            f"most that are decoded, takes {most / 1e9:.1f} GB at most. Raise the limit (the "
            f"environment's {VARIABLE}), or cut it into parts."
        )
