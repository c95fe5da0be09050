"""Which pictures are trained on and which are held out, to validate and to test.

A held-out picture must never be trained on. So a folder's own splits count wherever they can be
told by their names; where there are none, the hash of a picture's name decides, by its value alone,
so that other pictures, added or removed, never move it.

In a small folder no hash may fall among the held-out ones, and then the picture whose hash comes
nearest is held out: no set is empty. That alone can't last when pictures are added: a rule that
looks at nothing but names, and holds something out of every small set, would have to hold out for
ever at least two of any three pictures. So it takes memory. A run notes what served for what
(`Manifest`), and when it goes on, every picture that is still there serves for the same.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sa_flax.data.listing import some
from sa_flax.data.manifest import ROLES, Manifest
from sa_flax.errors import InputError

# One example: (H, W, 3) uint8 arrays of one size by name: "clean", and "noisy" where it is a pair.
Example = dict[str, np.ndarray]

# The shorter side in pixels of the smallest picture that results can be measured on: SSIM's window.
SMALLEST_MEASURED = 11
HELD_OUT = 0.05  # of the pictures, to validate; as many to test

_SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_ROLES = {word: role for role, words in _SYNONYMS.items() for word in words}
_DOES = {"train": "to train", "validation": "to validate", "test": "to test"}


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, each a random-access source of examples.

    Attributes:
      train, validation, test: sequences of examples, decoded when they are asked for.
      notes: how the set was split, a line each.
      skipped: what is not used, with the reason, a line each.
      manifest: the names of all examples.
      pairs: whether examples have a "noisy" picture beside the "clean" one.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    manifest: Manifest = field(default_factory=lambda: Manifest(""))
    pairs: bool = False


class Candidate(NamedTuple):
    """An example that may be used.

    Attributes:
      name: where it lies inside the data set, as text.
      shorter: its shorter side in pixels.
      digest: of its content.
      scene: of what it shows: examples with the same one are copies.
      content: what reads it.
    """

    name: str
    shorter: int
    digest: str
    scene: str
    content: Any


def role_of(word: str) -> str | None:
    """ "train", "validation" or "test" where `word`, in letters of any case, is a name of it."""
    return _ROLES.get(word.lower())


def _role_within(word: str) -> str | None:
    """The same for names like DIV2K_train_HR and val2017: one of their words says it."""
    found = {role_of(part) for part in re.split(r"[^a-z]+", word.lower())} - {None}
    return found.pop() if len(found) == 1 else None


def roles_of_folders(names: Iterable[str]) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """What the folders that pictures lie in say of them.

    Folders named train and test (or validation, valid, val, dev, ..., in letters of any case) that
    lie side by side, at any depth, are splits; so are folders with such a word in their names
    (DIV2K_train_HR, val2017) where all pictures lie in such folders, or where one is named train.
    Without a folder to train on, what lies beside top folders to validate or test is trained on.

    Args:
      names: paths inside the data set, with the separator of the system.

    Returns:
      The role of every picture: None where it lies beside the splits, and no entry at all where
      there are no splits. And lines that say what was done.

    Raises:
      InputError: where all pictures are held out.
    """
    folders = {n: n.split(os.sep)[:-1] for n in names}
    exact = {n: _find(parts, role_of) for n, parts in folders.items()}
    within = {n: exact[n] or _find(parts, _role_within) for n, parts in folders.items()}
    certain = any(found and found.role == "train" for found in exact.values())
    certain = certain or all(within[n] for n, parts in folders.items() if parts)
    for places in (within if certain else exact, exact):
        if _are_splits(places.values()):
            return {n: found and found.role for n, found in places.items()}, _tell(places)
    # Held-out folders alone, at the top. (A folder called "train" alone may hold railways.)
    top = {n: found if found and not found.parent else None for n, found in exact.items()}
    held_out = {n: found for n, found in top.items() if found and found.role != "train"}
    if not held_out:
        return {}, ()
    if len(held_out) == len(folders):
        raise InputError(
            f"all pictures lie in {some(sorted({found.name for found in held_out.values()}))}, "
            "which are held out from training; there are none to train on. Add a folder train "
            "beside them, or give one of them as --data.source to train on its pictures."
        )
    roles: dict[str, str | None] = {n: held_out[n].role if n in held_out else "train" for n in top}
    told, *_ = _tell(held_out)
    return roles, (told, "no folder named train: everything else is trained on")


class _Place(NamedTuple):
    """A folder that is a split: where it lies, its name, and what is in it for."""

    parent: tuple[str, ...]
    name: str
    role: str


def _find(folders: Sequence[str], rule: Callable[[str], str | None]) -> _Place | None:
    """The outermost of nested folders that is a split."""
    for depth, name in enumerate(folders):
        role = rule(name)
        if role is not None:
            return _Place(tuple(folders[:depth]), name, role)
    return None


def _are_splits(places: Iterable[_Place | None]) -> bool:
    """Whether somewhere a folder to train on has one to hold out beside it.

    In a library of photographs one album may be called train, and another, elsewhere, test.
    """
    beside: dict[tuple[str, ...], set[str]] = {}
    for place in places:
        if place is not None:
            beside.setdefault(place.parent, set()).add(place.role)
    return any("train" in roles and len(roles) > 1 for roles in beside.values())


def _tell(places: Mapping[str, _Place | None]) -> tuple[str, ...]:
    folders: dict[str, set[str]] = {}
    for place in places.values():
        if place is not None:
            folders.setdefault(place.role, set()).add(os.path.join(*place.parent, place.name))
    told = [f"{some(sorted(folders[r]))} {_DOES[r]}" for r in ROLES if r in folders]
    lines = [f"split by its folders: {', '.join(told)}"]
    beside = sorted(name for name, place in places.items() if place is None)
    if beside:
        lines.append(
            f"{len(beside)} picture{'s' * (len(beside) > 1)} beside these folders not used: "
            f"{some(beside)}"
        )
    return tuple(lines)


def position(name: str) -> float:
    """The hash of a name as a number in [0, 1), evenly spread."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_position(name: str, held_out: Sequence[str]) -> str:
    zone = int(position(name) / HELD_OUT)
    role = ("validation", "test")[zone] if zone < 2 else "train"
    return role if role in held_out else "train"


def divide(
    candidates: Sequence[Candidate],
    *,
    crop: int,
    where: str,
    earlier: Manifest | None = None,
) -> tuple[dict[str, list[Candidate]], tuple[str, ...], tuple[str, ...]]:
    """Divides examples into those to train on, to validate and to test.

    Args:
      candidates: all examples that can be read.
      crop: examples with a side shorter than this can't be trained on.
      where: the data set's name, for messages.
      earlier: what served for what when the run began, if it is going on.

    Returns:
      The examples of each role, in the order given; lines that say how it was done; and lines that
      name what is not used.

    Raises:
      InputError: where nothing is left to train on or to hold out.
    """
    roles, notes = roles_of_folders(c.name for c in candidates)
    candidates = [c for c in candidates if not roles or roles[c.name] is not None]
    usable = [c for c in candidates if c.shorter >= SMALLEST_MEASURED]
    skipped = _too_small(candidates, SMALLEST_MEASURED, "can be measured")
    own = {roles[c.name] for c in usable} if roles else set()
    missing = [role for role in ("validation", "test") if role not in own]
    by_name, by_digest = earlier.roles() if earlier is not None else ({}, {})
    # A picture under another name is known by its content, but beside the old one it is a copy.
    here = {c.digest for c in usable if c.name in by_name}
    by_digest = {digest: role for digest, role in by_digest.items() if digest not in here}
    parts: dict[str, list[Candidate]] = {role: [] for role in ROLES}
    for c in usable:
        role = roles.get(c.name) or "train"
        if role == "train":
            role = by_name.get(c.name) or by_digest.get(c.digest) or _by_position(c.name, missing)
        parts[role].append(c)
    skipped += _too_small(parts["train"], crop, f"the training crop of {crop} x {crop} fits in")
    parts["train"] = [c for c in parts["train"] if c.shorter >= crop]
    if not any(c.shorter >= crop for c in usable) or (roles and not parts["train"]):
        raise InputError(_nothing_left(where, candidates, crop))
    if missing:
        kind = "of those to train are cut off" if roles else "are held out"
        what = " and ".join(_DOES[role] for role in missing)
        notes += (f"{HELD_OUT:.0%} {kind} {what} (each), by the hashes of their names",)
    seen = {c.name for c in usable if c.name in by_name or c.digest in by_digest}
    notes += _fill(parts, missing, seen, crop, where)
    copies, kept = _leave_out_copies(parts)
    return parts, notes + kept, (*skipped, *copies)


def _fill(
    parts: dict[str, list[Candidate]], missing: list[str], seen: set[str], crop: int, where: str
) -> tuple[str, ...]:
    """Gives every part an example: of those that are not `seen`, whose hash comes nearest."""
    lines = []
    for role in ("train", *missing):
        if parts[role]:
            continue
        others = [r for r in ("train", *missing) if r != role and len(parts[r]) > 1]
        free = [c for r in others for c in parts[r] if c.name not in seen and c.shorter >= crop]
        in_train = [c for c in free if c in parts["train"]]
        if not free and seen:
            raise InputError(
                f"{where}: the pictures that this run keeps {_DOES[role]} are gone. Put them back, "
                "or start a new run with another --output."
            )
        if not free:
            raise InputError(
                f"{where} holds {sum(map(len, parts.values()))} pictures that can be read and that "
                "a crop fits in; training needs at least 3 (one each to train, validate and test)."
            )
        choose = max if role == "train" else min
        nearest = choose(in_train or free, key=lambda c: position(c.name))
        for part in parts.values():
            if nearest in part:
                part.remove(nearest)
        parts[role].append(nearest)
        if role != "train":
            lines.append(f"few pictures: {nearest.name} alone serves {_DOES[role]}")
    return tuple(lines)


def _leave_out_copies(
    parts: dict[str, list[Candidate]],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Takes copies of held-out pictures out of training: lines on those, and on others that stay.

    They stay where there is nothing else to train on.
    """
    held_out = {c.scene: c.name for role in ("test", "validation") for c in parts[role]}
    copies = [c for c in parts["train"] if c.scene in held_out]
    lines = [f"{c.name}: a copy of {held_out[c.scene]}, which is held out" for c in copies]
    if len(copies) == len(parts["train"]):
        return (), tuple(f"trained on, for want of others: {line}" for line in lines)
    parts["train"] = [c for c in parts["train"] if c.scene not in held_out]
    return tuple(lines), ()


def _too_small(candidates: Sequence[Candidate], least: int, what: str) -> tuple[str, ...]:
    return tuple(
        f"{c.name}: its shorter side has {c.shorter} pixels; {least} are the least that {what}"
        for c in candidates
        if c.shorter < least
    )


def _nothing_left(where: str, candidates: Sequence[Candidate], crop: int) -> str:
    if not candidates:
        return f"{where} holds no pictures that can be read."
    largest = max(candidates, key=lambda c: c.shorter)
    return (
        f"every picture to train on in {where} is smaller than the training crop of {crop} x "
        f"{crop}; the largest, {largest.name}, has a shorter side of {largest.shorter} "
        f"pixels. Lower --data.crop to {largest.shorter} or less, or give larger pictures."
    )
