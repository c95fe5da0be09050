"""Rules that carry weights between PyTorch names and Flax paths, in both directions.

A table is data: each rule pairs a PyTorch name with a Flax path (dotted) and says how the array
changes. Both are templates. `{i}` stands for a number, and `{3*i+2}` for three times that number
plus two, so that `Rule("dncnn.{3*i+2}.weight", "convs.{i+1}.kernel", CONV)` takes `dncnn.47.weight`
to `convs.16.kernel`, and back. Nothing is skipped in silence: whatever does not fit, on either
side, is collected and raised as one `PortingError`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from sa_flax.errors import PortingError

_HOLE = re.compile(r"\{(?:(\d+)\*)?([a-z_]+)([+-]\d+)?\}")
_NUMBER = r"(0|[1-9]\d*)"


class Leaf(Protocol):
    """An array, or the shape and dtype of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


@dataclass(frozen=True)
class Transform:
    """How an array changes from PyTorch to Flax, and back."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    def torch_shape(self, leaf: Leaf) -> tuple[int, ...]:
        """The shape that PyTorch gives to the array of `leaf`."""
        return self.to_torch(np.broadcast_to(np.float32(0), leaf.shape)).shape


AS_IS = Transform(lambda x: x, lambda x: x)
# Convolution kernels: (out, in, height, width) <-> (height, width, in, out).
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# Dense kernels: (out, in) <-> (in, out).
DENSE = Transform(lambda x: x.T, lambda x: x.T)
# One number a channel: (1, C, 1, 1) <-> (C,).
CHANNELS = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1, 1))


class _Template:
    """Text with numbered holes: reads numbers out of a name, and writes names from numbers."""

    def __init__(self, text: str):
        pattern, end = "", 0
        self._text = text
        self._holes: list[tuple[str, int, int]] = []
        for hole in _HOLE.finditer(text):
            factor, name, offset = hole.groups()
            self._holes.append((name, int(factor or 1), int(offset or 0)))
            pattern += re.escape(text[end : hole.start()]) + _NUMBER
            end = hole.end()
        rest = text[end:]
        if "{" in rest or "}" in rest:
            raise ValueError(f"template {text!r}: holes are written {{i}}, {{2*i}} or {{2*i+1}}.")
        self._pattern = re.compile(pattern + re.escape(rest))
        self.names = frozenset(name for name, _, _ in self._holes)

    def read(self, name: str) -> dict[str, int] | None:
        """The numbers that fill the holes so that `name` comes out, or None where none do."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        values: dict[str, int] = {}
        for text, (hole, factor, offset) in zip(match.groups(), self._holes, strict=True):
            value, remainder = divmod(int(text) - offset, factor)
            if remainder or value < 0 or values.setdefault(hole, value) != value:
                return None
        return values

    def write(self, values: Mapping[str, int]) -> str:
        """The name that `values` give."""
        numbers = iter(str(factor * values[name] + offset) for name, factor, offset in self._holes)
        return _HOLE.sub(lambda _: next(numbers), self._text)


@dataclass(frozen=True)
class Rule:
    """PyTorch name <-> Flax path, and how the array changes."""

    torch: str
    flax: str
    transform: Transform = AS_IS
    _torch: _Template = field(init=False, repr=False, compare=False)
    _flax: _Template = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_torch", _Template(self.torch))
        object.__setattr__(self, "_flax", _Template(self.flax))
        if self._torch.names != self._flax.names:
            raise ValueError(
                f"rule {self.torch!r} -> {self.flax!r}: both sides need the same holes."
            )

    def flax_path(self, torch_name: str) -> str | None:
        values = self._torch.read(torch_name)
        return None if values is None else self._flax.write(values)

    def torch_name(self, flax_path: str) -> str | None:
        values = self._flax.read(flax_path)
        return None if values is None else self._torch.write(values)


@dataclass(frozen=True)
class Exempt:
    """A PyTorch entry without a place here: declared, so that strictness lets it pass.

    Skipped when read, present or not. Written as `value` for every leaf that the template `beside`
    matches, or never where `beside` is None.
    """

    torch: str
    beside: str | None = None
    value: Any = None


@dataclass(frozen=True)
class RuleTable:
    """All rules of one way to name an architecture's weights."""

    name: str
    rules: tuple[Rule, ...]
    exempt: tuple[Exempt, ...] = ()

    def is_exempt(self, torch_name: str) -> bool:
        return any(_Template(entry.torch).read(torch_name) is not None for entry in self.exempt)


def _misfit(name: str, array: np.ndarray, path: str, leaf: Leaf, rule: Rule) -> str | None:
    if not jax.dtypes.issubdtype(array.dtype, np.floating):
        return f"{name}: holds {array.dtype}; {path} needs floating-point numbers"
    needed = rule.transform.torch_shape(leaf)
    if array.shape != needed:
        return f"{name}: has shape {array.shape}; {path} needs {needed}"
    with np.errstate(over="ignore"):
        bad = array.size - int(np.isfinite(np.asarray(array, leaf.dtype)).sum())
    if bad:
        return (
            f"{name}: {bad} of {array.size} values are not finite in {leaf.dtype} (the training "
            "diverged, or the file is damaged)"
        )
    return None


def to_flax(
    table: RuleTable, source: Mapping[str, np.ndarray], leaves: Mapping[str, Leaf]
) -> dict[str, np.ndarray]:
    """Arrays for every one of `leaves` (dotted path -> shape and dtype), from PyTorch's `source`.

    Raises:
      PortingError: listing every source entry without a rule, leaf without a source, double claim,
        shape that doesn't fit, and array with values that are not finite.
    """
    unused, ambiguous, misfits = [], [], []
    filled: dict[str, np.ndarray] = {}
    claims: dict[str, list[str]] = defaultdict(list)
    for name, array in source.items():
        hits = [(rule, path) for rule in table.rules if (path := rule.flax_path(name)) is not None]
        if table.is_exempt(name):
            if hits:
                ambiguous.append(f"{name}: exempt, and by rule {hits[0][0].torch!r}")
            continue
        if len(hits) > 1:
            rules = " and ".join(repr(rule.torch) for rule, _ in hits)
            ambiguous.append(f"{name}: by the rules {rules}")
            continue
        if not hits or hits[0][1] not in leaves:
            where = f" (this model has no {hits[0][1]})" if hits else ""
            unused.append(f"{name} {array.shape}{where}")
            continue
        rule, path = hits[0]
        claims[path].append(name)
        problem = _misfit(name, array, path, leaves[path], rule)
        if problem:
            misfits.append(problem)
        else:
            filled[path] = np.array(rule.transform.to_flax(array), leaves[path].dtype)
    ambiguous += [
        f"{path}: by the entries {' and '.join(names)}"
        for path, names in claims.items()
        if len(names) > 1
    ]
    unfilled = [f"{path} {leaf.shape}" for path, leaf in leaves.items() if path not in claims]
    if unused or unfilled or ambiguous or misfits:
        raise PortingError(
            f"these weights do not fit the model under the rules '{table.name}'",
            unused=unused,
            unfilled=unfilled,
            ambiguous=ambiguous,
            misfits=misfits,
        )
    return filled


def to_torch(table: RuleTable, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's names and arrays for all of `leaves` (dotted path -> array), each its own copy.

    Raises:
      PortingError: listing every leaf that no rule, or more than one, has a name for, and every
        name that two leaves would get.
    """
    unused, ambiguous = [], []
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in leaves.items():
        hits = [(rule, name) for rule in table.rules if (name := rule.torch_name(path)) is not None]
        if not hits:
            unused.append(f"{path} {leaf.shape}")
        elif len(hits) > 1:
            rules = " and ".join(repr(rule.flax) for rule, _ in hits)
            ambiguous.append(f"{path}: by the rules {rules}")
        elif hits[0][1] in arrays:
            ambiguous.append(f"{hits[0][1]}: by {path} and another leaf")
        else:
            rule, name = hits[0]
            arrays[name] = np.array(rule.transform.to_torch(np.asarray(leaf)), order="C")
    for entry in table.exempt:
        if entry.beside is not None:
            names, beside = _Template(entry.torch), _Template(entry.beside)
            for path in leaves:
                values = beside.read(path)
                if values is not None:
                    arrays[names.write(values)] = np.array(entry.value)
    if unused or ambiguous:
        raise PortingError(
            f"this model cannot be written under the rules '{table.name}'",
            unused=unused,
            ambiguous=ambiguous,
        )
    return arrays
