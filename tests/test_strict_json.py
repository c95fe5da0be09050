"""JSON for every reader: no Infinity, no NaN, and the reason beside the null."""

import json
import math

import numpy as np
import pytest

from sa_flax import strict_json


def loads(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, np.float64("inf")])
def test_numbers_that_are_not_finite(number):
    value = {"rows": [{"psnr": number, "sigma": 0.0}], "list": (number, 1)}
    assert loads(strict_json.dumps(value)) == {
        "rows": [{"psnr": None, "sigma": 0, "not_finite": {"psnr": str(float(number))}}],
        "list": [None, 1],
    }


def test_everything_else_is_as_json_has_it():
    value = {"a": [1, 2.5, None, True, "Infinity"], "b": {}}
    assert strict_json.dumps(value, indent=1) == json.dumps(value, indent=1)
    with pytest.raises(TypeError):
        strict_json.dumps({"a": object()})
