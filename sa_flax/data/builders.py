"""Pictures as TFDS data sets: the bundled photographs, any folder of images, any TFDS set by name.

Everything is stored as array_record files and read by `as_data_source`, so TensorFlow is never
needed. A prepared set is kept in the user's cache and found again by its content.
"""

import contextlib
import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from sa_flax.errors import InputError, nearest
from sa_flax.pictures import SUFFIXES, decode_rgb8, find_pictures, read_rgb8

PHOTOGRAPHS = Path(__file__).parent / "photographs"
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, each a random-access source of encoded pictures.

    Attributes:
      train, validation, test: sequences of records; `image_of` decodes one.
      image_feature: the record's entry that holds the encoded picture.
      skipped: files that could not be read, with the reason.
      smallest: (height, width, name) of the picture with the shortest side, where known.
    """

    train: Sequence
    validation: Sequence
    test: Sequence
    image_feature: str = "image"
    skipped: tuple[str, ...] = ()
    smallest: tuple[int, int, str] | None = None

    def image_of(self, record: dict[str, Any]) -> np.ndarray:
        """The picture of a record as (H, W, 3) uint8."""
        return decode_rgb8(record[self.image_feature])


def _features(encoding: str) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format=encoding),
            "filename": tfds.features.Text(),
        }
    )


class Photographs(tfds.core.GeneratorBasedBuilder):
    """36 photographs (CC0 or public domain), longer side 512 pixels, in fixed splits.

    26 to train, 4 to validate, 6 to test; LICENSES.tsv beside the files names each one's source.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=_features("jpeg"))

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with (PHOTOGRAPHS / "LICENSES.tsv").open(newline="") as table:
            rows = [row for row in csv.DictReader(table, delimiter="\t") if row["split"] == split]
        for row in rows:
            encoded = io.BytesIO((PHOTOGRAPHS / row["file"]).read_bytes())
            yield row["file"], {"image": encoded, "filename": row["file"]}


# Not registered with TFDS: a folder has no name that code could ask for.
with tfds.core.registered.skip_registration():

    class ImageFolder(tfds.core.GeneratorBasedBuilder):
        """All pictures in a folder and its sub-folders, as 8-bit RGB PNG (see `decode_rgb8`).

        Sub-folders named train, validation and test, if all three exist, are the splits. Otherwise
        a twentieth of the pictures (at least one) tests and another validates, chosen by their
        names, so that the choice hardly changes when pictures are added. A file that can't be read
        is skipped and listed in the metadata.
        """

        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, folder: Path, **kwargs):
            self.folder = folder
            super().__init__(**kwargs)

        def __getstate__(self) -> dict[str, Any]:
            # Sent to a worker process, a builder is built again from its arguments; TFDS knows only
            # its own.
            state = super().__getstate__()
            return {"_original_state": {**state["_original_state"], "folder": self.folder}}

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                features=_features("png"),
                metadata=tfds.core.MetadataDict(skipped=[], smallest=None),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            readable = []
            for path in find_pictures(self.folder):
                try:
                    picture = read_rgb8(path)
                except InputError as error:
                    reason = str(error).removeprefix(f"{path}: ")
                    self.info.metadata["skipped"].append(f"{self._name(path)}: {reason}")
                    continue
                readable.append(path)
                self._note_size(picture, path)
            splits = _split_by_name(self.folder, readable)
            return {name: self._generate_examples(paths) for name, paths in splits.items()}

        def _note_size(self, picture: np.ndarray, path: Path) -> None:
            height, width = picture.shape[:2]
            smallest = self.info.metadata["smallest"]
            if smallest is None or min(height, width) < min(smallest[:2]):
                self.info.metadata["smallest"] = [height, width, self._name(path)]

        def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[bytes, dict[str, Any]]]:
            for path in paths:
                encoded = io.BytesIO()
                Image.fromarray(read_rgb8(path)).save(encoded, "PNG", compress_level=1)
                encoded.seek(0)
                key = os.fsencode(path.relative_to(self.folder))
                yield key, {"image": encoded, "filename": self._name(path)}

        def _name(self, path: Path) -> str:
            """The name inside the folder; bytes that are no UTF-8 are written as \\xNN."""
            name = os.fsencode(path.relative_to(self.folder))
            return name.decode("utf-8", "backslashreplace")


def _split_by_name(folder: Path, paths: list[Path]) -> dict[str, list[Path]]:
    tops = {path: path.relative_to(folder).parts[0] for path in paths}
    if set(_SPLITS) <= set(tops.values()):
        return {split: [p for p in paths if tops[p] == split] for split in _SPLITS}
    if len(paths) < 3:
        raise InputError(
            f"{folder} holds {len(paths)} readable pictures; training needs at least 3 (one each "
            "to train, validate and test)."
        )
    by_hash = sorted(
        paths, key=lambda p: hashlib.sha256(os.fsencode(p.relative_to(folder))).hexdigest()
    )
    held_out = max(1, len(paths) // 20)
    return {
        "train": sorted(by_hash[2 * held_out :]),
        "validation": sorted(by_hash[:held_out]),
        "test": sorted(by_hash[held_out : 2 * held_out]),
    }


def cache_directory(directory: str | None) -> Path:
    """Where prepared sets are kept: `directory`, or sa_flax in the user's cache folder."""
    if directory is not None:
        return Path(directory)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "sa_flax")


def open_splits(source: str, *, directory: str | None = None) -> Splits:
    """Opens a data set, preparing it first where that has not been done.

    Args:
      source: "photographs" (bundled), a folder of images, or the name of a TFDS data set with an
        image feature (downloaded by TFDS where it isn't prepared yet).
      directory: where prepared sets are kept; by default the user's cache.

    Raises:
      InputError: for a missing or empty folder, an unknown data set, or one without pictures.
    """
    cache = cache_directory(directory)
    if source == "photographs":
        builder = Photographs(file_format="array_record", data_dir=str(cache))
        return _open(_prepare(builder, cache))
    path = os.path.expanduser(source)
    if source and os.path.isdir(path):
        folder = Path(os.path.realpath(path))
        return _open(_prepare(_folder_builder(folder, cache), cache))
    if not source or os.sep in source or source.startswith((".", "~")):
        raise InputError(
            f"no folder {source!r}. --data.source takes a folder of images, 'photographs' "
            "(bundled), or the name of a TFDS data set."
        )
    return _open(_prepare(_tfds_builder(source, cache), cache))


def _folder_builder(folder: Path, cache: Path) -> ImageFolder:
    paths = find_pictures(folder)
    if not paths:
        raise InputError(
            f"no pictures in {folder} or below it. Looked for files ending in "
            f"{', '.join(SUFFIXES)}."
        )
    # Another set of files, sizes or dates is another data set.
    content = repr([folder, *((str(p.relative_to(folder)), *_size_and_date(p)) for p in paths)])
    fingerprint = hashlib.sha256(os.fsencode(content)).hexdigest()[:16]
    return ImageFolder(
        folder, file_format="array_record", data_dir=str(cache / "folders" / fingerprint)
    )


def _size_and_date(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere; it will be among the skipped
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _tfds_builder(name: str, cache: Path) -> tfds.core.DatasetBuilder:
    prepared = os.path.isdir(cache / name.partition("/")[0])
    directory = cache if prepared else cache / "tfds"
    try:
        return tfds.builder(name, file_format="array_record", data_dir=str(directory))
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        # The last two: names that TFDS can't parse, and versions and variants that it hasn't got.
        known = ["photographs", *tfds.list_builders(with_community_datasets=False)]
        raise InputError(
            f"{name!r} is neither a folder nor a TFDS data set.{nearest(name, known)} "
            "--data.source takes a folder of images, 'photographs' (bundled), or a TFDS name."
        ) from error


def _prepare(builder: tfds.core.DatasetBuilder, cache: Path) -> tfds.core.DatasetBuilder:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (
            filelock.FileLock(Path(tempfile.gettempdir(), f"sa_flax-{_lock_name(builder)}.lock")),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            tfds.disable_progress_bar()
            builder.download_and_prepare()
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"can't prepare the data set in {cache}: {error}. Choose another folder with "
            "--data.directory."
        ) from error
    return builder


def _lock_name(builder: tfds.core.DatasetBuilder) -> str:
    return hashlib.sha256(str(builder.data_dir).encode()).hexdigest()[:16]


def _open(builder: tfds.core.DatasetBuilder) -> Splits:
    features = builder.info.features or {}
    images = [name for name, f in features.items() if isinstance(f, tfds.features.Image)]
    if not images:
        raise InputError(
            f"the TFDS data set {builder.name!r} has no image feature; it has "
            f"{', '.join(features)}."
        )
    image = "image" if "image" in images else images[0]
    names = _split_names(builder)
    sources = {
        split: builder.as_data_source(split=name, decoders={image: tfds.decode.SkipDecoding()})
        for split, name in names.items()
    }
    metadata = builder.info.metadata or {}
    smallest = metadata.get("smallest")
    return Splits(
        **sources,
        image_feature=image,
        skipped=tuple(metadata.get("skipped", ())),
        smallest=tuple(smallest) if smallest else None,
    )


def _split_names(builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    """Which TFDS splits serve to train, validate and test; missing ones are cut from train."""
    available = set(builder.info.splits)
    train = "train" if "train" in available else sorted(available)[0]
    names = {"train": train}
    for role, candidates in (
        ("validation", ("validation", "valid", "val", "dev")),
        ("test", ("test",)),
    ):
        found = [c for c in candidates if c in available and c != train]
        if found:
            names[role] = found[0]
    missing = [role for role in ("validation", "test") if role not in names]
    total = builder.info.splits[train].num_examples
    held_out = max(1, total // 20)
    if total <= held_out * len(missing):
        raise InputError(
            f"the TFDS data set {builder.name!r} has {total} pictures to train on: too few to "
            "hold some out to validate and test."
        )
    for index, role in enumerate(missing):
        names[role] = f"{train}[{index * held_out}:{(index + 1) * held_out}]"
    if missing:
        names["train"] = f"{train}[{len(missing) * held_out}:]"
    return names
