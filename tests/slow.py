"""Parameters of which some are run in every test run, and the others on purpose."""

from collections.abc import Sequence

import pytest


def some_slow(values: Sequence[str], *quick: str) -> list:
    """All values as parameters of a test; those that are not named `quick` are marked slow."""
    assert set(quick) <= set(values)
    marks = ((), pytest.mark.slow)
    return [pytest.param(value, marks=marks[value not in quick]) for value in values]
