"""JSON that every reader takes: infinite figures become null, with the reason beside them.

Python writes `Infinity` and `NaN`, which are no JSON. The PSNR of two equal pictures is infinite.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON. A number that is not finite is null; its object names it in "not_finite".

    `dumps({"psnr": math.inf})` is `{"psnr": null, "not_finite": {"psnr": "inf"}}`.

    Raises:
      TypeError: for what JSON has no form for.
    """
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """`value` with null for every number that is not finite, as `dumps` writes it."""
    if isinstance(value, Mapping):
        kept = {key: finite(entry) for key, entry in value.items()}
        named = {
            key: str(float(entry))
            for key, entry in value.items()
            if isinstance(entry, float) and not math.isfinite(entry)
        }
        return {**kept, "not_finite": named} if named else kept
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
