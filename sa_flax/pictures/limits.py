"""How large a picture may be, and what stands beside its pixels."""

import os

from sa_flax.errors import InputError

# As many pixels as are decoded unless told otherwise: a file of a few bytes can claim any size.
MOST_PIXELS = 178_956_970
VARIABLE = "SA_FLAX_MOST_PIXELS"

# What may stand beside the pixels: a profile, EXIF data or a text that is larger is left out.
MOST_COMPANION_BYTES = 16 * 2**20

# Uncompressed, a pixel takes at most this: four channels of 32 bits.
_BYTES_A_PIXEL = 16
# What else a file may hold: previews, layers, the film of a moving photograph.
_BYTES_BESIDE = 2**28


class TooLargeError(InputError):
    """A file or a picture is larger than the limits allow."""


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
    """Raises TooLargeError for a picture whose header claims more pixels than `limit`.

    InputError for one that claims to have none.
    """
    if width < 1 or height < 1:
        raise InputError(f"not a readable picture (it claims to be {width} x {height} pixels).")
    count = width * height * pages
    if count > limit:
        each = f"{pages} pages of {width} x {height}" if pages > 1 else f"{width} x {height}"
        raise TooLargeError(
            f"claims to have {each} pixels; at most {limit / 1e6:.0f} million pixels are decoded. "
            f"If it has them, raise the limit (the environment's {VARIABLE}={count}), or cut it "
            "into parts."
        )


def check_bytes(count: int, pixels: int) -> None:
    """Raises TooLargeError for a file that is larger than any picture of so many pixels can be."""
    most = pixels * _BYTES_A_PIXEL + _BYTES_BESIDE
    if count > most:
        raise TooLargeError(
            f"is {count / 1e9:.1f} GB large; a picture of {pixels / 1e6:.3g} million pixels takes "
            f"{most / 1e9:.1f} GB at most. If it has more, raise the limit (the environment's "
            f"{VARIABLE}), or cut it into parts."
        )
