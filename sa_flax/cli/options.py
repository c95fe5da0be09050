"""Options of the commands: how they are written, shown and refused.

argparse, with its messages in whole sentences: what was given, what is allowed, what to do. It is
part of Python and is imported in a hundredth of a second.
"""

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from sa_flax.errors import InputError, nearest
from sa_flax.limits import check_level, check_seed
from sa_flax.remote import check_path

_MISSING = {
    "--output": "say where {what} shall go: --output {metavar}",
    "--architecture": "say what network the weights are of, for example --architecture dncnn",
    "--images": "say where the clean pictures are: --images FOLDER",
    "--sigma": "say how much noise: --sigma 25, for example",
}


class Parser(argparse.ArgumentParser):
    """A parser of one command's options, which raises InputError instead of leaving.

    Args:
      usage: the command and what it needs.
      description: what it does.
      notes: paragraphs for the end of its help.
      examples: command lines, without the program's name.
    """

    def __init__(
        self, usage: str, *, description: str, notes: Sequence[str] = (), examples: Sequence[str]
    ):
        width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        lines = ["examples:", *(f"  sa-flax {example}" for example in examples)]
        command = usage.partition(" ")[0]
        super().__init__(
            prog=f"sa-flax {command}",
            usage=f"sa-flax {usage} [options]",
            description=textwrap.fill(description, width),
            epilog="\n".join([*(textwrap.fill(note, width) + "\n" for note in notes), *lines]),
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=26, width=width
            ),
            allow_abbrev=False,
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The options in `words`, which may stand before, between and after the paths.

        Raises:
          InputError: where they are wrong; the message names what was given.
        """
        known = [name for action in self._actions for name in action.option_strings]
        words = list(words)
        if "--" in words:
            words = _without_separator(words)
        for word in words:  # before argparse, which would first say what is missing
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                raise self._unknown(option, known)
        options, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            raise self._unknown(unknown[0], known)
        return options

    def _unknown(self, given: str, known: Sequence[str]) -> InputError:
        hint = nearest(given, [name for name in known if name.startswith("--")])
        return InputError(f"no option {given!r}.{hint} {self._more()}")

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong, as an InputError."""
        message = message.removeprefix("argument ")
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            first = missing.split(", ")[0].split("/")[-1]
            action = next((a for a in self._actions if first in a.option_strings), None)
            metavar = "FOLDER" if action is None or action.metavar == "WHERE" else action.metavar
            said = _MISSING.get(first, f"{first} is missing").format(
                what="the results" if metavar == "FOLDER" else "the network", metavar=metavar
            )
            raise InputError(f"{said}. {self._more()}")
        option, separator, reason = message.partition(": ")
        if option.startswith("-"):
            spellings = option.split("/")
            option = next((o for o in spellings if o.startswith("--")), spellings[0])
        if reason.startswith(("expected one argument", "expected at least one argument")):
            raise InputError(f"{option} needs a value after it. {self._more()}")
        if reason == "expected 2 arguments":
            raise InputError(f"{option} needs two values after it, the lower first. {self._more()}")
        text = f"{option}{separator}{reason}"
        raise InputError(f"{text}{'' if text.endswith(('.', '?')) else '.'} {self._more()}")

    def _more(self) -> str:
        return f"See {self.prog} --help."


def _without_separator(words: list[str]) -> list[str]:
    """What follows -- is no option: names of files, put before all options, -x as ./-x.

    argparse loses the separator where options and paths are mixed.
    """
    cut = words.index("--")
    before, names = words[:cut], words[cut + 1 :]
    first = next((i for i, w in enumerate(before) if w.startswith("-") and w != "-"), len(before))
    named = [os.path.join(".", w) if w.startswith("-") and w != "-" else w for w in names]
    return [*before[:first], *named, *before[first:]]


def _number(text: str, kind: Callable[[str], float], what: str) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{what}; got {text!r}") from error


def level(text: str) -> float:
    """A noise level on the 0-255 scale, as `type=` of an option."""
    what = (
        "a sigma is a number, the standard deviation of the noise on the 0-255 scale: 10 is "
        "little, 25 is plain to see, 50 is a lot"
    )
    try:
        value = float(text)
    except ValueError as error:
        hint = ""
        if "," in text or ";" in text:
            hint = "; several levels stand apart: --sigma 15 25 50"
        elif os.path.exists(text):
            hint = "; names and files stand before --sigma"
        raise argparse.ArgumentTypeError(f"{what}; got {text!r}{hint}") from error
    try:
        check_level("a sigma", value)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def hint_at_scale(*levels: float | None) -> None:
    """Says what scale levels are on where one looks as if it were on another."""
    for value in levels:
        if value is not None and 0 < value < 1:
            print(
                f"sa-flax: --sigma {value:g} is on the 0-255 scale: next to no noise. For "
                f"{value:g} of the whole range give {value * 255:g}.",
                file=sys.stderr,
            )


def place(text: str) -> Path:
    """A file or folder, as `type=` of an option. Nothing at all would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("needs the name of a file or folder; got nothing")
    try:
        check_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error
    return Path(text)


def number(text: str) -> float:
    """Any number, as `type=` of an option."""
    return _number(text, float, "must be a number")


def share(text: str) -> float:
    """A number from 0 to 1, as `type=` of an option."""
    what = "must be a number from 0 to 1"
    value = _number(text, float, what)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{what}; got {text}")
    return value


def ending(text: str) -> str:
    """The suffix of a kind of picture that can be written, as `type=` of an option."""
    import numpy as np

    from sa_flax.pictures import what_cannot_be_written

    suffix = f".{text.lower().removeprefix('.')}"
    if reason := what_cannot_be_written(f"result{suffix}", np.zeros((1, 1, 3), np.uint8)):
        raise argparse.ArgumentTypeError(reason.replace("--format ", ""))
    return suffix


def whole(least: int = 1, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A whole number from `least` to `most`, as `type=` of an option."""

    def parse(text: str) -> int:
        what = f"must be a whole number, at least {least}"
        value = int(_number(text, int, what))
        if value < least:
            raise argparse.ArgumentTypeError(f"{what}; got {value}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}; got {value}")
        return value

    return parse


def seed(text: str) -> int:
    """A seed of random generators, as `type=` of an option."""
    value = int(_number(text, int, "a seed is a whole number"))
    try:
        check_seed("a seed", value)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def add_words(parser: argparse.ArgumentParser) -> None:
    """Adds -q and -v: how much a command says."""
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but what failed")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say more: every picture, and tracebacks"
    )
