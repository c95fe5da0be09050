"""Options that say which noise: --noise KIND and, as in training, --noise.FIELD of its class."""

import argparse
import dataclasses
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from sa_flax.cli.options import number
from sa_flax.errors import InputError, nearest
from sa_flax.limits import check_fields
from sa_flax.noise import NOISES, Gaussian, Noise


def add_noise(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """Adds --noise, also written --noise.kind, and an option for each field of a kind of noise.

    Args:
      parser: gets the options.
      several: --noise takes any number of kinds.
    """
    many: Any = {"nargs": "+"} if several else {}
    parser.add_argument(
        "--noise",
        "--noise.kind",
        dest="noise",
        type=_kind,
        metavar="KIND",
        help=f"{', '.join(NOISES)} (default: gaussian)",
        **many,
    )
    group = parser.add_argument_group("options of a kind of noise, as in training")
    for name, kinds in _fields().items():
        hint, default = _hint_and_default(kinds[0], name)
        of = f"of {', '.join(kinds)}"
        if hint is bool:
            shape: Any = {"action": "store_true", "help": of}
        elif typing.get_origin(hint) is tuple:
            shown = " ".join(f"{value:g}" for value in default)
            shape = {"type": number, "nargs": 2, "metavar": ("LOW", "HIGH")}
            shape["help"] = f"{of} (default: {shown})"
        else:
            shape = {"type": number, "metavar": "N", "help": f"{of} (default: {default:g})"}
        group.add_argument(_option(name), dest=f"noise.{name}", **shape)


def noises_of(
    options: argparse.Namespace, kinds: Sequence[str], sigmas: Iterable[float]
) -> list[Noise]:
    """The noises that are asked for, in their order; a Gaussian one for each of `sigmas`.

    Raises:
      InputError: for an option that none of them has, and for a number that is not allowed.
    """
    said = {name: getattr(options, f"noise.{name}") for name in _fields()}
    given = {n: value for n, value in said.items() if value is not None and value is not False}
    for name, having in _fields().items():
        if name in given and not set(having) & set(kinds):
            raise InputError(
                f"the noise {', '.join(kinds)} has no {_option(name)}. With it, give --noise "
                f"{' or '.join(having)} besides."
            )
    noises: list[Noise] = []
    for kind in kinds:
        own: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if kind in _fields()[name]
        }
        if kind == Gaussian().kind:
            noises += [Gaussian(sigma=sigma, **own) for sigma in sigmas]
        else:
            noises.append(NOISES[kind](**own))
    for noise in noises:
        check_fields(noise, "noise.")
    return noises


def _fields() -> dict[str, list[str]]:
    """Every field -> the kinds that have it. Gaussian's level is --sigma, which stands alone."""
    found: dict[str, list[str]] = {}
    for kind, cls in NOISES.items():
        for field in dataclasses.fields(cls):
            if field.init and field.name != "sigma":
                found.setdefault(field.name, []).append(kind)
    return found


def _hint_and_default(kind: str, name: str) -> tuple[Any, Any]:
    cls = NOISES[kind]
    hint = typing.get_type_hints(cls)[name]
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    return hint, next(field.default for field in dataclasses.fields(cls) if field.name == name)


def _option(name: str) -> str:
    return f"--noise.{name.replace('_', '-')}"


def _kind(text: str) -> str:
    if text not in NOISES:
        raise argparse.ArgumentTypeError(
            f"the kinds of noise are {', '.join(NOISES)}; got {text!r}.{nearest(text, NOISES)}"
        )
    return text
