"""What XLA's CPU compiler must be told, so that it makes few and fast passes over a map.

Each of these was measured, and none changes a result. Processor time with them and without, in
milliseconds (medians of interleaved runs, jax 0.10, two cores of an AMD EPYC that did other work
beside; "compiler not told" of `python -m benchmarks.shuffle_attention`):

    (8, 64, 64, 128), 32 groups    forward  2.7 and 19    with backward  8 and 44
    (1, 512, 512, 64), 16 groups   forward   10 and 75    with backward 28 and 181

Where `tuned` is False, as on every other platform, they do nothing.
"""

import functools
import itertools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def pin(x: Array) -> Array:
    """Returns x, computed once and in the shape it has here (CPU).

    XLA's CPU compiler fuses small vectors into the loops over the map, computing them anew for
    every pixel, and fuses a reshape after a shuffle, which then reads one number at a time.
    It fuses nothing across a loop, and `optimization_barrier` is gone by then: so this is a loop
    of two turns that subtracts zero from one element in place.
    """
    start = (0,) * x.ndim

    def body(turn, held):
        element = lax.dynamic_slice(held, start, (1,) * x.ndim)
        zero = jnp.minimum(turn, 0).astype(x.dtype)
        return lax.dynamic_update_slice(held, element - zero, start)

    return lax.fori_loop(0, 2, body, x)


def pinned(vectors: tuple[Array, ...], *, tuned: bool) -> tuple[Array, ...]:
    """Vectors of one shape, each as `pin` leaves it."""
    return tuple(pin(jnp.stack(vectors))) if tuned else vectors


def two_sums(term, maps: tuple[Array, ...], *, tuned: bool) -> tuple[Array, Array]:
    """Sums over rows and columns, (B, C), of the two maps that `term` makes of columns of `maps`.

    Tuned: the two are added up as the parts of one complex number, so that the maps are read and
    `term` is computed once, and in blocks of columns, which XLA turns into vector instructions.
    """

    def total(x):
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1).sum(1)

    width = maps[0].shape[2]
    if not tuned or not isinstance(width, int):  # a symbol, in an export for any size
        first, second = term(*maps)
        return total(first), total(second)
    blocks = min(range(min(width, 8), min(width, 3), -1), key=lambda n: width % n, default=width)
    columns = width // blocks
    edges = [columns * i for i in range(blocks + 1)]
    terms = [
        lax.complex(*term(*(m[:, :, start:stop] for m in maps)))
        for start, stop in itertools.pairwise(edges)
    ]
    while len(terms) > 1:  # in pairs: fewer roundings
        terms = [sum(terms[i + 1 : i + 2], terms[i]) for i in range(0, len(terms), 2)]
    partial = pin(terms[0])
    sums = [total(partial.real), total(partial.imag)]
    if edges[-1] < width:
        rest = term(*(m[:, :, edges[-1] :] for m in maps))
        sums = [main + total(part) for main, part in zip(sums, rest, strict=True)]
    return sums[0], sums[1]


def unshuffled(g: Array, *, tuned: bool) -> Array:
    """(..., C) -> (..., 2, C/2): undoes the shuffle of a map.

    Tuned: loads both of two neighbours and masks one away, which XLA does by whole vectors; every
    second number by itself it would gather one by one.
    """
    pairs = g.reshape(*g.shape[:-1], g.shape[-1] // 2, 2)
    if not tuned:
        return pairs.swapaxes(-1, -2)
    bits = jnp.dtype(f"uint{8 * g.dtype.itemsize}")
    even, odd = (lax.bitcast_convert_type(pairs[..., None, :, side], bits) for side in (0, 1))
    mask = pin(jnp.array([jnp.iinfo(bits).max, 0], bits))
    mask = mask.reshape((1,) * (g.ndim - 1) + (2, 1))
    return lax.bitcast_convert_type((even & mask) | (odd & ~mask), g.dtype)


def on_platform(function, *args, **static):
    """`function`, tuned where it runs on a CPU."""
    return lax.platform_dependent(
        *args,
        cpu=functools.partial(function, **static, tuned=True),
        default=functools.partial(function, **static, tuned=False),
    )
