"""Pairs of pictures of the same thing, a noisy and a clean one: which file belongs to which.

Two names belong together where they are the same but for what tells noisy from clean: a folder
(`noisy/01.png` and `clean/01.png`), or a part of the name (`01_real.JPG` and `01_mean.JPG`).
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sa_flax.data.folder import splits_of
from sa_flax.data.headers import PictureFile, look_at_all, scenes
from sa_flax.data.listing import as_text, of_a_run, some, subfolders
from sa_flax.data.manifest import Manifest
from sa_flax.data.splits import Candidate, Splits
from sa_flax.errors import InputError
from sa_flax.pictures import survey

NOISY, CLEAN = "noisy", "clean"


class Pair(NamedTuple):
    """A noisy and a clean picture of one size.

    Attributes:
      name: what their names have in common.
      noisy, clean: their files.
    """

    name: str
    noisy: PictureFile
    clean: PictureFile


def find_pairs(
    noisy: str | os.PathLike[str],
    clean: str | os.PathLike[str],
    *,
    noisy_names: str = "*",
    clean_names: str = "*",
) -> tuple[list[Pair], list[str]]:
    """The pairs in two folders, or in one (given twice) by what their names say.

    Which files are noisy and which are clean is told by patterns: with `*` and `?`, of the end of a
    path without its suffix (`*_real`; a suffix, as in `*_real.JPG`, must be the file's, and `.*` is
    any); without, the name of a sub-folder (`noisy`). Letters may be of any case. Names belong
    together where the rest is the same, suffixes aside.

    Args:
      noisy: folder with the noisy pictures.
      clean: folder with the clean pictures; it may be the same.
      noisy_names: which files in `noisy` are noisy pictures.
      clean_names: which files in `clean` are clean ones.

    Returns:
      The pairs, sorted by name; and a line for everything else: a picture without a partner, a pair
      of unequal size, a file that can't be read, and what neither pattern names.

    Raises:
      InputError: where a folder isn't there, or both patterns mean the same files.
    """
    noisy, clean = Path(noisy), Path(clean)
    for folder in (noisy, clean):
        if not os.path.isdir(folder):
            raise InputError(f"no folder {folder}. Pairs need one with noisy and one with clean "
                             "pictures.")  # fmt: skip
    one = os.path.realpath(noisy) == os.path.realpath(clean)
    if one and noisy_names.lower() == clean_names.lower():
        raise InputError(
            f"noisy and clean pictures can't be told apart: both are {noisy_names!r} in {noisy}. "
            "Give two folders, or two patterns of names."
        )
    keys = {NOISY: _key(noisy_names), CLEAN: _key(clean_names)}
    listings = {NOISY: survey(noisy, of_a_run), CLEAN: survey(clean, of_a_run)}
    left_out = [
        f"{found.path}: {found.reason}"
        for found in sorted({*listings[NOISY].left_out, *listings[CLEAN].left_out})
    ]
    files: dict[str, dict[str, list[Path]]] = {NOISY: {}, CLEAN: {}}
    roots = {NOISY: noisy, CLEAN: clean}
    named: set[Path] = set()
    for kind, listing in listings.items():
        for path in listing.pictures:
            key = keys[kind](os.path.relpath(path, roots[kind]))
            if key is not None:
                files[kind].setdefault(key, []).append(path)
                named.add(path)
    both = {p for paths in files[NOISY].values() for p in paths} & {
        p for paths in files[CLEAN].values() for p in paths
    }
    if both:
        raise InputError(
            f"{len(both)} pictures in {noisy} are noisy by {noisy_names!r} and clean by "
            f"{clean_names!r}: {some(sorted(p.name for p in both))}. Give patterns that differ."
        )
    for kind, listing in listings.items():
        left_out += [
            f"{path}: named neither like noisy ({noisy_names}) nor like clean ones ({clean_names})"
            for path in listing.pictures
            if path not in named and (kind == NOISY or not one)
        ]
    matched, alone = _match(files)
    left_out += alone
    good, bad = look_at_all([path for pair in matched.values() for path in pair])
    left_out += [f"{path}: {why}" for path, why in bad]
    looked = {file.path: file for file in good}
    pairs = []
    for name, (noisy_file, clean_file) in sorted(matched.items()):
        if noisy_file in looked and clean_file in looked:
            pair = Pair(as_text(name), looked[noisy_file], looked[clean_file])
            if (pair.noisy.height, pair.noisy.width) == (pair.clean.height, pair.clean.width):
                pairs.append(pair)
            else:
                left_out.append(
                    f"{noisy_file}: is {pair.noisy.height} x {pair.noisy.width} pixels, "
                    f"{clean_file} {pair.clean.height} x {pair.clean.width}"
                )
        elif noisy_file in looked or clean_file in looked:
            left = noisy_file if noisy_file in looked else clean_file
            left_out.append(f"{left}: its partner can't be read")
    return pairs, [as_text(line) for line in left_out]


def _match(
    files: dict[str, dict[str, list[Path]]],
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Name -> (noisy, clean), and a line for each file without a partner of its own."""
    matched, alone = {}, []
    for kind, other in ((NOISY, CLEAN), (CLEAN, NOISY)):
        for key, paths in files[kind].items():
            partners = files[other].get(key, [])
            if not partners:
                alone += [f"{path}: no {other} picture belongs to it" for path in paths]
            elif len(paths) == len(partners) == 1:
                matched[key] = (files[NOISY][key][0], files[CLEAN][key][0])
            elif kind == NOISY:
                # The same name with several suffixes: those with the same one belong together.
                by_suffix = {kind: _by_suffix(paths), other: _by_suffix(partners)}
                common = by_suffix[NOISY].keys() & by_suffix[CLEAN].keys()
                for suffix in common:
                    pair = (by_suffix[NOISY][suffix], by_suffix[CLEAN][suffix])
                    matched[key + suffix] = pair
                used = {path for suffix in common for path in matched[key + suffix]}
                alone += [
                    f"{path}: more than one picture could belong to it"
                    for path in (*paths, *partners)
                    if path not in used
                ]
    return matched, alone


def _by_suffix(paths: Sequence[Path]) -> dict[str, Path]:
    suffixes = [path.suffix.lower() for path in paths]
    return {
        suffix: path
        for suffix, path in zip(suffixes, paths, strict=True)
        if suffixes.count(suffix) == 1
    }


def _key(pattern: str) -> Callable[[str], str | None]:
    """What a path has in common with its partner's; None where it isn't named by the pattern."""
    parts = [part for part in pattern.replace(os.sep, "/").split("/") if part not in ("", ".")]
    if not parts:
        raise InputError(f"{pattern!r} is no pattern of names: give one like '*_real.*'.")
    if not re.search(r"[*?]", pattern):
        return lambda name: _without_folder(name, parts)
    stem, suffix = os.path.splitext(parts[-1])
    rule = re.compile("/".join(map(_as_regex, [*parts[:-1], stem])), re.IGNORECASE)
    suffix_rule = re.compile(_as_regex(suffix) if suffix else ".*", re.IGNORECASE)

    def key(name: str) -> str | None:
        base, ending = os.path.splitext(name)
        pieces = base.split(os.sep)
        if len(pieces) < len(parts) or not suffix_rule.fullmatch(ending):
            return None
        found = rule.fullmatch("/".join(pieces[-len(parts) :]))
        if found is None:
            return None
        return os.path.join(*pieces[: -len(parts)], *found.groups())

    return key


def _as_regex(pattern: str) -> str:
    pieces = re.split(r"([*?])", pattern)
    wild = {"*": "([^/]*)", "?": "([^/])"}
    return "".join(wild.get(piece, re.escape(piece)) for piece in pieces)


def _without_folder(name: str, folder: Sequence[str]) -> str | None:
    """A path without its first folder of that name, and without its suffix."""
    pieces = os.path.splitext(name)[0].split(os.sep)
    lower, wanted = [p.lower() for p in pieces[:-1]], [p.lower() for p in folder]
    for start in range(len(lower) - len(wanted) + 1):
        if lower[start : start + len(wanted)] == wanted:
            return os.path.join(*pieces[:start], *pieces[start + len(wanted) :])
    return None


def are_pairs(folder: Path) -> bool:
    """Whether a folder has sub-folders noisy and clean, itself or in its own sub-folders."""
    return any(
        {NOISY, CLEAN} <= {below.name.lower() for below in subfolders(place)}
        for place in (folder, *subfolders(folder))
    )


def open_pairs(
    folder: Path,
    source: str,
    *,
    noisy: str = NOISY,
    clean: str = CLEAN,
    crop: int,
    earlier: Manifest | None = None,
) -> Splits:
    """A folder of pairs as a data set: examples {"noisy", "clean"}.

    Args:
      folder: where they lie.
      source: the data set's name, for messages.
      noisy, clean: which files are which (see `find_pairs`).
      crop, earlier: see `divide`.

    Raises:
      InputError: where there are no pairs, or too few.
    """
    pairs, left_out = find_pairs(folder, folder, noisy_names=noisy, clean_names=clean)
    skipped = tuple(line.replace(as_text(f"{folder}{os.sep}"), "") for line in left_out)
    if not pairs:
        reasons = "".join(f"\n  {line}" for line in skipped[:10])
        raise InputError(
            f"no pairs of noisy ({noisy}) and clean ({clean}) pictures in {folder}. To train on "
            f"pictures that are no pairs give another --data.source.{reasons}"
        )
    candidates = [
        Candidate(
            pair.name,
            pair.clean.shorter,
            f"{pair.noisy.digest} {pair.clean.digest}",
            scene,
            {"clean": pair.clean, "noisy": pair.noisy},
        )
        for pair, scene in zip(pairs, scenes([pair.clean for pair in pairs]), strict=True)
    ]
    note = f"{len(pairs)} pairs of noisy ({noisy}) and clean ({clean}) pictures"
    return splits_of(
        candidates,
        source,
        crop=crop,
        earlier=earlier,
        skipped=skipped,
        notes=(note,),
        pairs=True,
    )
