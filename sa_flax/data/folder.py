"""A folder of pictures as a data set: read where they are, each decoded when it is asked for."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sa_flax.data.headers import PictureFile, look_at_all, scenes
from sa_flax.data.listing import as_text, in_words, of_a_run
from sa_flax.data.manifest import ROLES, Manifest
from sa_flax.data.splits import Candidate, Example, Splits, divide
from sa_flax.errors import InputError
from sa_flax.pictures import SUFFIXES, read_rgb8, survey


class Files(Sequence[Example]):
    """Examples whose arrays lie in picture files.

    Args:
      examples: name of an array ("clean", "noisy") -> its file, for each example.
    """

    def __init__(self, examples: Sequence[dict[str, PictureFile]]):
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index):
        """Example number `index`. Raises InputError, naming the file, where one can't be read."""
        return {name: _decode(file) for name, file in self._examples[index].items()}


def _decode(noted: PictureFile) -> np.ndarray:
    path = noted.path
    try:
        picture = read_rgb8(path)
    except InputError as error:
        raise InputError(
            f"{error} Mend it or take it away; the same command goes on from the last checkpoint."
        ) from error
    if picture.shape[:2] != (noted.height, noted.width):
        raise InputError(
            f"{path}: has {picture.shape[0]} x {picture.shape[1]} pixels; it had {noted.height} x "
            f"{noted.width} when training began. The same command goes on from the last checkpoint."
        )
    return picture


def open_folder(folder: Path, source: str, *, crop: int, earlier: Manifest | None = None) -> Splits:
    """The pictures in a folder and its sub-folders; see `divide` for the arguments.

    Raises:
      InputError: where there are no pictures, or too few.
    """
    found = survey(folder, refuse=of_a_run)
    others = in_words(found.left_out, folder)
    if not found.pictures:
        left_out = "".join(f"\n  {line}" for line in others[:10])
        raise InputError(
            f"no pictures in {folder} or below it. Looked for files ending in "
            f"{', '.join(SUFFIXES)}.{left_out}"
        )
    good, bad = look_at_all(found.pictures)
    candidates = [
        Candidate(inside(folder, f.path), f.shorter, f.digest, scene, {"clean": f})
        for f, scene in zip(good, scenes(good), strict=True)
    ]
    unreadable = tuple(f"{inside(folder, path)}: {why}" for path, why in bad)
    if not good:
        reasons = "".join(f"\n  {line}" for line in unreadable[:10])
        raise InputError(f"none of the {len(bad)} pictures in {folder} can be read:{reasons}")
    return splits_of(candidates, source, crop=crop, earlier=earlier, skipped=(*others, *unreadable))


def splits_of(
    candidates: Sequence[Candidate],
    source: str,
    *,
    crop: int,
    earlier: Manifest | None,
    skipped: tuple[str, ...],
    notes: tuple[str, ...] = (),
    pairs: bool = False,
) -> Splits:
    """`Splits` of examples in files (their `content` is what `Files` takes)."""
    parts, how, more = divide(candidates, crop=crop, where=source, earlier=earlier)
    skipped = (*skipped, *more)
    splits = {role: {c.name: c.digest for c in parts[role]} for role in ROLES}
    return Splits(
        **{role: Files([c.content for c in parts[role]]) for role in ROLES},
        notes=notes + how,
        skipped=skipped,
        manifest=Manifest(source, splits, skipped),
        pairs=pairs,
    )


def inside(folder: Path, path: Path) -> str:
    """A file's name inside a folder, as text."""
    return as_text(os.path.relpath(path, folder))
