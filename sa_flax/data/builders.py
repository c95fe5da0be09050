"""Pictures to train on: where they come from.

The bundled photographs, any folder of images, noisy/clean pairs in a folder, any TFDS set by name
or by its directory. TensorFlow is never needed.
"""

import os
import re
from pathlib import Path

from sa_flax.data import PHOTOGRAPHS
from sa_flax.data.folder import open_folder
from sa_flax.data.listing import some, subfolders
from sa_flax.data.manifest import Manifest
from sa_flax.data.pairs import CLEAN, NOISY, are_pairs, open_pairs
from sa_flax.data.splits import Splits
from sa_flax.errors import InputError
from sa_flax.pictures import SUFFIXES, find_pictures
from sa_flax.remote import check_path

__all__ = ["PHOTOGRAPHS", "SUFFIXES", "Splits", "find_pictures", "open_splits"]

_TFDS_NAME = r"[A-Za-z]\w*(/[\w.+-]+)?(:[\d.*]+)?"  # NAME, NAME/VARIANT, NAME:VERSION


def open_splits(
    source: str,
    *,
    directory: str | None = None,
    crop: int = 1,
    noisy: str | None = None,
    clean: str | None = None,
    earlier: Manifest | None = None,
) -> Splits:
    """Opens a data set, preparing it first where that has to be done.

    Args:
      source: "photographs" (bundled); a folder of images, read where they are; the directory of a
        prepared TFDS set; or the name of a TFDS set (downloaded where it isn't prepared yet).
      directory: where prepared sets are kept; by default the user's cache.
      crop: the side of the crops to train on; smaller pictures are not trained on.
      noisy, clean: patterns that tell noisy from clean pictures in a folder of pairs (see
        `find_pairs`). Without them, a folder with sub-folders noisy and clean is one of pairs.
      earlier: what the run's data set was when it began, if it is going on: what was held out then
        stays so.

    Raises:
      InputError: for a missing or empty folder, an unknown data set, or one without pictures.
    """
    if (noisy is None) != (clean is None):
        raise InputError(
            "--data.noisy and --data.clean go together: patterns of names or sub-folders, for "
            "example '*_real.*' and '*_mean.*'."
        )
    path = os.path.expanduser(source)
    if source and source != "photographs" and os.path.isdir(path):
        folder = Path(os.path.realpath(path))
        if noisy is None and clean is None and are_pairs(folder):
            noisy, clean = NOISY, CLEAN
        if noisy is not None and clean is not None:
            return open_pairs(folder, source, noisy=noisy, clean=clean, crop=crop, earlier=earlier)
        prepared = prepared_in(folder)
        if prepared is None:
            return open_folder(folder, source, crop=crop, earlier=earlier)
        from sa_flax.data import tfds_sets  # slow to import; folders don't need it

        return tfds_sets.open_prepared(prepared, source, crop=crop)
    if noisy is not None:
        raise InputError(
            f"--data.noisy and --data.clean tell pairs in a folder; {source!r} is none."
        )
    check_path(source, "--data.source")
    if not re.fullmatch(_TFDS_NAME, source):
        raise InputError(
            f"no folder {source!r}. --data.source takes a folder of images, 'photographs' "
            "(bundled), or the name of a TFDS data set."
        )
    from sa_flax.data import preparing, tfds_sets

    cache = preparing.cache_directory(directory)
    if source == "photographs":
        return tfds_sets.open_photographs(cache, crop=crop)
    return tfds_sets.open_by_name(source, cache, crop=crop)


def prepared_in(folder: Path) -> Path | None:
    """The prepared TFDS set in a folder: itself, or the newest version in it. None if there's none.

    Raises:
      InputError: where there are several variants to choose from.
    """
    if (folder / "dataset_info.json").is_file() and (folder / "features.json").is_file():
        return folder
    below = subfolders(folder)
    versions = [p for p in below if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    versions = [p for p in versions if (p / "features.json").is_file()]
    if versions:
        return max(versions, key=lambda p: tuple(map(int, p.name.split("."))))
    variants = [p for p in below if (p / "features.json").is_file()]
    variants += [
        p
        for p in below
        if not p.name.startswith(".") and list(p.glob("[0-9]*.[0-9]*.[0-9]*/features.json"))
    ]
    if len(variants) > 1:
        raise InputError(
            f"{folder} holds several prepared data sets. Give one of them: "
            f"{some(sorted(str(p) for p in variants), 10)}."
        )
    return prepared_in(variants[0]) if variants else None
