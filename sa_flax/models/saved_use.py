"""What the config of a saved network says of how it is used: each a question to it."""

from collections.abc import Mapping
from typing import Any

from sa_flax.errors import InputError
from sa_flax.functional.statistics import Window, check_window
from sa_flax.models.saved import CONFIG, list_pretrained


def suits_gray(config: Mapping[str, Any]) -> bool:
    """Whether a saved network denoises gray pictures, by its config.

    Gray networks do. A colour network does where it has seen gray pictures in training: noise that
    all channels share looks to others like the picture itself.
    """
    if config.get("options", {}).get("channels") == 1:
        return True
    training = config.get("training", {})
    data = training.get("config", {}).get("data", {})
    return bool(training.get("gray_share", data.get("gray_share", 0)))


def keep_detail_of(config: Mapping[str, Any], origin: str) -> float:
    """How much texture is put back into a saved network's results, by its config; 0 if not noted.

    Raises:
      InputError: for what is no number from 0 to 1.
    """
    amount = config.get("keep_detail", 0.0)
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= 1:
        raise InputError(
            f'{origin}: "keep_detail" in {CONFIG} must be a number from 0 to 1; got {amount!r}.'
        )
    return float(amount)


def declips(config: Mapping[str, Any], origin: str) -> bool:
    """Whether black and white are mended in a saved network's results; False if not noted.

    Raises:
      InputError: for what is neither true nor false.
    """
    answer = config.get("declip", False)
    if not isinstance(answer, bool):
        raise InputError(f'{origin}: "declip" in {CONFIG} must be true or false; got {answer!r}.')
    return answer


def window_of(config: Mapping[str, Any], origin: str) -> Window:
    """What a saved network's statistics are to be taken over, by its config; None if not noted.

    Raises:
      InputError: for what is no pair of positive integers.
    """
    try:
        return check_window(config.get("window"))
    except ValueError as error:
        raise InputError(
            f'{origin}: "window" in {CONFIG} must be [height, width], two integers of at least 1; '
            f"got {config['window']!r}."
        ) from error


def specialists_of(config: Mapping[str, Any], origin: str) -> dict[int, str]:
    """The shipped networks that a saved one hands white noise to, by channels; {} if not noted.

    Raises:
      InputError: for what is no object of numbers of channels and names of shipped networks.
    """
    named = config.get("specialists", {})
    shipped = list_pretrained()
    if not isinstance(named, Mapping) or not all(
        channels in ("1", "3") and name in shipped for channels, name in named.items()
    ):
        raise InputError(
            f'{origin}: "specialists" in {CONFIG} must name networks that come with sa_flax '
            f'({", ".join(shipped)}) for "1" and "3" channels; got {named!r}.'
        )
    return {int(channels): name for channels, name in named.items()}
