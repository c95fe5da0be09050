"""What a run's data set is made of, so that another start of the run can tell what has changed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sa_flax.errors import InputError

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Manifest:
    """The names of all examples, by what they serve for.

    Attributes:
      source: what was asked for (--data.source).
      splits: "train", "validation" and "test" -> name of an example -> digest of its content.
      left_out: a line for each thing that is not used, with the reason.
      gone: examples that were there at an earlier start, as in `splits`: should they come back,
        they serve for the same as before.
    """

    source: str
    splits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    gone: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The same for the same examples in the same splits."""
        content = json.dumps([sorted(self.splits.get(role, {}).items()) for role in ROLES])
        return hashlib.sha256(content.encode()).hexdigest()

    def remembering(self, earlier: "Manifest | None") -> "Manifest":
        """With what `earlier` had besides."""
        if earlier is None:
            return self
        here = {name for names in self.splits.values() for name in names}
        gone = {
            role: {
                name: digest
                for known in (earlier.gone, earlier.splits)
                for name, digest in known.get(role, {}).items()
                if name not in here
            }
            for role in ROLES
        }
        return dataclasses.replace(self, gone=gone)

    def roles(self) -> tuple[dict[str, str], dict[str, str]]:
        """What each served for: by name, and by digest.

        Not by a digest that examples of several roles have: those only begin and end alike.
        """
        by_name, by_digest = dict[str, str](), dict[str, set[str]]()
        for part in (self.gone, self.splits):
            new: dict[str, set[str]] = {}
            for role in ROLES:
                for name, digest in part.get(role, {}).items():
                    by_name[name] = role
                    new.setdefault(digest, set()).add(role)
            by_digest |= new
        return by_name, {d: role for d, (role, *others) in by_digest.items() if not others}

    def to_json(self) -> str:
        """As JSON text, a line for each example."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def from_json(text: str) -> Manifest:
    """The manifest that `Manifest.to_json` wrote.

    Raises:
      InputError: for anything else.
    """
    try:
        values: Any = json.loads(text)
        parts = [
            {role: dict(values[part].get(role, {})) for role in ROLES}
            for part in ("splits", "gone")
        ]
        texts = [
            t for part in parts for names in part.values() for pair in names.items() for t in pair
        ]
        if not all(isinstance(t, str) for t in [values["source"], *texts]):
            raise TypeError
        return Manifest(values["source"], parts[0], tuple(map(str, values["left_out"])), parts[1])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError("is not a list of a run's examples.") from error


def changes(earlier: Manifest, now: Manifest) -> list[str]:
    """What differs between two states of a data set, a line each; none where they are the same.

    An example that was trained on and is held out now, or the other way round, is said to be so.
    """
    old = {name: (role, d) for role in ROLES for name, d in earlier.splits.get(role, {}).items()}
    new = {name: (role, d) for role in ROLES for name, d in now.splits.get(role, {}).items()}
    gone: dict[str, list[str]] = {}
    for name in old.keys() - new.keys():
        gone.setdefault(old[name][1], []).append(name)
    lines = []
    for name in sorted(new):
        role, digest = new[name]
        if name in old:
            before, content = old[name]
            if content != digest:
                lines.append(f"{name}: changed ({_serves(role)})")
            if before != role:
                lines.append(f"{name}: {_served(before)}, now {_serves(role)}")
        elif gone.get(digest):
            origin = gone[digest].pop()
            moved = "" if old[origin][0] == role else f", {_served(old[origin][0])}"
            lines.append(f"{name}: was {origin}{moved} (now {_serves(role)})")
        else:
            lines.append(f"{name}: new ({_serves(role)})")
    lines += [
        f"{name}: no longer there ({_served(old[name][0])})"
        for names in gone.values()
        for name in sorted(names)
    ]
    return sorted(lines)


def check_unmoved(earlier: Manifest, now: Manifest) -> list[str]:
    """What has changed in a run's data set, a line each.

    Raises:
      InputError: where the data set lies elsewhere than before and is not the same.
    """
    lines = changes(earlier, now)
    if lines and earlier.source != now.source:
        listing = "\n".join(f"  {line}" for line in lines[:10])
        more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise InputError(
            f"this run trains on {earlier.source}; {now.source} holds other pictures:\n{listing}"
            f"{more}\nGive --data.source {earlier.source}, or start a run of its own with --output "
            "DIR."
        )
    return lines


def _serves(role: str) -> str:
    return {"train": "to train", "validation": "to validate", "test": "to test"}[role]


def _served(role: str) -> str:
    return {"train": "was trained on", "validation": "validated", "test": "tested"}[role]
