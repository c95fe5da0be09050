"""Where in a U-Net which attention stands."""

from collections.abc import Mapping
from typing import Any, Literal

from sa_flax.errors import InputError, nearest
from sa_flax.modules.attention import Kind, check_kind

Attend = Literal["none", "encoder", "decoder", "both"]
# One kind for all places, or kinds by level (0 is full resolution) or place ("encoder.0").
Kinds = Kind | Mapping[Any, Kind]


def place_names(levels: int) -> dict[str, tuple[int, str]]:
    """Every place -> its level and its side, in the order that a picture passes them."""
    down = {f"encoder.{level}": (level, "encoder") for level in range(levels - 1)}
    up = {f"decoder.{level}": (level, "decoder") for level in reversed(range(levels - 1))}
    return down | {"bottom": (levels - 1, "bottom")} | up


def kinds_by_place(
    attention: Kinds, options: Mapping[Any, Any] | None, *, attend: Attend, levels: int
) -> dict[str, tuple[Kind, dict[str, Any]]]:
    """Every place -> the kind of attention there and its options.

    Args:
      attention: a kind, or a mapping to kinds from levels (0 to levels - 1, also as text, which is
        what JSON makes of them) and places ("encoder.0", "bottom", "decoder.0"); a place outranks
        its level, and what is not in it gets none.
      options: keyword arguments of the layers; for a mapping of kinds, a mapping to them from the
        same keys.
      attend: which sides have attention at all.
      levels: number of resolutions.

    Raises:
      InputError (a ValueError): for unknown kinds, keys that name no place or one that `attend`
        leaves out, and options of what isn't there.
    """
    if attend not in ("none", "encoder", "decoder", "both"):
        raise InputError(f"attend must be 'none', 'encoder', 'decoder' or 'both'; got {attend!r}.")
    places = place_names(levels)
    attended = [place for place, (_, side) in places.items() if attend in (side, "both")]
    nothing: tuple[Kind, dict[str, Any]] = ("none", {})
    if not isinstance(attention, Mapping):
        check_kind(attention, options or {})
        chosen = (attention, dict(options or {}))
        return {place: chosen if place in attended else nothing for place in places}
    kinds = {_key(key, places, levels): kind for key, kind in attention.items()}
    given = {_key(key, places, levels): value for key, value in (options or {}).items()}
    for key, value in given.items():
        if key not in kinds or not isinstance(value, Mapping):
            raise InputError(
                f"attention_options must map the keys of attention ({_listed(kinds)}) to keyword "
                f"arguments of the attention there; got {key!r}: {value!r}."
            )
    by_place = dict.fromkeys(places, nothing)
    for key in sorted(kinds, key=lambda key: isinstance(key, str)):  # places after levels
        check_kind(kinds[key], given.get(key, {}))
        named = [place for place, (level, _) in places.items() if key in (place, level)]
        reached = [place for place in named if place in attended]
        if not reached:
            raise InputError(
                f"attention names {key!r} ({_listed(named)}), but attend={attend!r} puts attention "
                f"at {_listed(attended) or 'no place'} only. Use attend='both', or leave it out."
            )
        by_place |= dict.fromkeys(reached, (kinds[key], dict(given.get(key, {}))))
    return by_place


def _key(key: Any, places: Mapping[str, Any], levels: int) -> int | str:
    """A level as a number, or a place."""
    if isinstance(key, str) and key.isdecimal():
        key = int(key)
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < levels:
        return key
    if isinstance(key, str) and key in places:
        return key
    hint = nearest(key, places) if isinstance(key, str) else ""
    raise InputError(
        f"attention names {key!r}, which is no place in a network of {levels} levels.{hint} "
        f"Levels: 0 to {levels - 1}; places: {_listed(places)}."
    )


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))
