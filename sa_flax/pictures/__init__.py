"""Picture files: one reader and one writer, for data sets and for the command.

Imports neither JAX nor TFDS.
"""

from sa_flax.pictures.decoding import decode_rgb8, read_rgb8
from sa_flax.pictures.files import (
    LeftOut,
    Survey,
    decode_pages,
    encode_pages,
    find_pictures,
    output_suffix,
    read_pages,
    read_picture,
    start_of,
    survey,
    what_cannot_be_written,
    write_pages,
    write_picture,
)
from sa_flax.pictures.formats import SUFFIXES
from sa_flax.pictures.picture import Picture
from sa_flax.pictures.values import (
    from_unit,
    is_gray,
    on_colours,
    side_by_side,
    split_alpha,
    to_channels,
    to_unit,
)

__all__ = [
    "SUFFIXES",
    "LeftOut",
    "Picture",
    "Survey",
    "decode_pages",
    "decode_rgb8",
    "encode_pages",
    "find_pictures",
    "from_unit",
    "is_gray",
    "on_colours",
    "output_suffix",
    "read_pages",
    "read_picture",
    "read_rgb8",
    "side_by_side",
    "split_alpha",
    "start_of",
    "survey",
    "to_channels",
    "to_unit",
    "what_cannot_be_written",
    "write_pages",
    "write_picture",
]
