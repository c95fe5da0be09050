"""The check of annotations at every call, and how to see what a function says without it."""

import contextlib
from collections.abc import Iterator

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

# A whole number will do for a float, as type checkers have it too.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Inside, annotations are not checked, as users have it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@contextlib.contextmanager
def refuses(match: str, error: type[Exception] = ValueError) -> Iterator[None]:
    """As `pytest.raises`, with the check of annotations off: users have none, and meet the error.

    Args:
      match: regular expression that is in the message.
      error: the error that is raised.
    """
    with unchecked(), pytest.raises(error, match=match):
        yield
