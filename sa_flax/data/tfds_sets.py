"""TFDS data sets: the bundled photographs, any set by name, any prepared set by its directory.

All are stored as array_record files and read through `as_data_source`, and prepared without
TensorFlow (`without_tensorflow`). A prepared set needs no lock and nothing to be written: several
users can share it.
"""

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import read_only_builder

from sa_flax.data import PHOTOGRAPHS
from sa_flax.data.listing import some
from sa_flax.data.manifest import ROLES, Manifest
from sa_flax.data.preparing import prepared, reason
from sa_flax.data.splits import HELD_OUT, SMALLEST_MEASURED, Example, Splits, role_of
from sa_flax.data.without_tensorflow import without_bucket, without_tensorflow
from sa_flax.errors import InputError, nearest
from sa_flax.pictures import decode_rgb8
from sa_flax.pictures.pillow import quiet_pillow

_READABLE = ("array_record", "parquet")  # the formats with random access
# Names of the picture to learn from, of a set that has several in one example.
_FIRST_CHOICE = ("image", "clean", "gt", "hr")


class Photographs(tfds.core.GeneratorBasedBuilder):
    """36 photographs (CC0 or public domain), longer side 512 pixels, in fixed splits.

    26 to train, 4 to validate, 6 to test; LICENSES.tsv beside the files names each one's source.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in ROLES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with (PHOTOGRAPHS / "LICENSES.tsv").open(newline="") as table:
            rows = [row for row in csv.DictReader(table, delimiter="\t") if row["split"] == split]
        for row in rows:
            encoded = io.BytesIO((PHOTOGRAPHS / row["file"]).read_bytes())
            yield row["file"], {"image": encoded, "filename": row["file"]}


class Records(Sequence[Example]):
    """Examples whose clean picture is an entry of TFDS records.

    Args:
      records: a random-access source of records with encoded pictures.
      feature: name of the entry.
      chosen: numbers of the records to use; all where it is None.
    """

    def __init__(self, records: Sequence, feature: str, chosen: np.ndarray | None = None):
        self._records, self._feature, self._chosen = records, feature, chosen

    def __len__(self) -> int:
        return len(self._records if self._chosen is None else self._chosen)

    def __getitem__(self, index):
        return {"clean": decode_rgb8(self.encoded(index))}

    def encoded(self, index: int) -> bytes:
        """The file that the picture number `index` was stored as."""
        at = range(len(self))[index]
        if self._chosen is not None:
            at = int(self._chosen[at])
        return self._records[at][self._feature]

    def only(self, chosen: np.ndarray) -> "Records":
        """Some of them, by number."""
        return Records(self._records, self._feature, chosen)


def open_photographs(cache: Path, *, crop: int) -> Splits:
    """The bundled photographs, kept in `cache` as array_record files."""
    with without_bucket():
        builder = Photographs(file_format="array_record", data_dir=str(cache))
    splits = _open(prepared(builder, cache), "photographs", crop=crop)
    return dataclasses.replace(splits, notes=())  # everybody knows them


def open_prepared(folder: Path, source: str, *, crop: int) -> Splits:
    """A set that TFDS has prepared in `folder`.

    Raises:
      InputError: where it can't be read by random access, or holds no pictures.
    """
    try:
        builder = read_only_builder.builder_from_directory(str(folder))
    except Exception as error:  # whatever TFDS makes of files that are not as it left them
        raise InputError(f"{folder}: not a TFDS data set that can be read ({error}).") from error
    return _open(builder, source, crop=crop)


def open_by_name(name: str, cache: Path, *, crop: int) -> Splits:
    """A TFDS set: NAME, NAME/VARIANT or NAME:VERSION, prepared first where that hasn't been done.

    It is looked for in `cache`, in what `open_by_name` prepared there, and where TFDS keeps sets by
    itself.

    Raises:
      InputError: for an unknown set, one without pictures, and one that can't be prepared.
    """
    for place in (cache, cache / "tfds", Path(os.path.expanduser(tfds.core.constants.DATA_DIR))):
        builder = _find(name, place)
        if builder is not None:
            return _open(builder, name, crop=crop)
    try:
        with without_bucket(), without_tensorflow():
            builder = tfds.builder(name, file_format="array_record", data_dir=str(cache / "tfds"))
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError, ImportError) as error:
        # The last three: names that TFDS can't parse, versions and variants that it hasn't got,
        # and packages that a builder wants.
        raise InputError(_unknown(name, error)) from error
    _picture_in(builder)  # before anything is downloaded
    return _open(prepared(builder, cache, say=True), name, crop=crop)


def _find(name: str, place: Path) -> tfds.core.DatasetBuilder | None:
    """The set where it is prepared in `place`, in a format with random access."""
    if not os.path.isdir(place / re.split("[:/]", name)[0]):
        return None
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=str(place))
    except Exception:  # of several classes: not there, not in this version, not whole
        return None
    return builder if _formats(builder) else None


def _unknown(name: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"the builder of the TFDS data set {name!r} can't be loaded: {reason(error)}"
    known = ["photographs", *tfds.list_builders(with_community_datasets=False)]
    if re.split("[:/]", name)[0] in known:
        return f"the TFDS data set {name!r} is not to be had: {reason(error)}"
    return (
        f"{name!r} is neither a folder nor a TFDS data set.{nearest(name, known)} --data.source "
        "takes a folder of images, 'photographs' (bundled), or a TFDS name."
    )


def _formats(builder: tfds.core.DatasetBuilder) -> list[str]:
    return [f.value for f in builder.info.available_file_formats() if f.value in _READABLE]


def _picture_in(builder: tfds.core.DatasetBuilder) -> tuple[str, tuple[str, ...]]:
    """The entry of an example to learn from, and all that hold pictures.

    Raises:
      InputError: where there is none.
    """
    features = builder.info.features or {}
    pictures = tuple(
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Image)
        and not isinstance(feature, tfds.features.LabeledImage)
        and feature.np_dtype in (np.uint8, np.uint16)  # others are maps of depth and the like
    )
    if not pictures:
        raise InputError(
            f"the TFDS data set {builder.name!r} has no pictures; its examples have "
            f"{', '.join(features) or 'no entries'}."
        )
    return next((n for n in _FIRST_CHOICE if n in pictures), pictures[0]), pictures


def _open(builder: tfds.core.DatasetBuilder, source: str, *, crop: int) -> Splits:
    feature, pictures = _picture_in(builder)
    if not _formats(builder):
        stored = some(sorted(f.value for f in builder.info.available_file_formats()))
        raise InputError(
            f"{builder.data_dir} is stored as {stored}, which has no random access. Prepare it as "
            "array_record: tfds.builder(NAME, file_format='array_record').download_and_prepare()."
        )
    names, notes = _split_names(builder)
    if len(pictures) > 1:
        notes += (
            f"of the entries with pictures ({', '.join(sorted(pictures))}), {feature} is used",
        )
    # No picture is decoded by TFDS, and those that nobody asks for not at all.
    decoders = {
        name: tfds.decode.SkipDecoding()
        for name, entry in builder.info.features.items()
        if isinstance(entry, tfds.features.Image)
    }
    parts, skipped = {}, []
    for role, name in names.items():
        records = Records(builder.as_data_source(split=name, decoders=decoders), feature)
        least = crop if role == "train" else SMALLEST_MEASURED
        parts[role], small = _large_enough(records, builder.info.features[feature], least, name)
        skipped += small
        if not len(parts[role]):
            raise InputError(
                f"no picture in {name} of the TFDS data set {builder.name!r} has a shorter side of "
                f"{least} pixels ({small[0]}). Lower --data.crop."
            )
    sizes = builder.info.splits
    splits = {
        role: {f"{builder.info.full_name} {name}": f"{sizes[name].num_examples} examples"}
        for role, name in names.items()
    }
    manifest = Manifest(source, splits, tuple(skipped))
    return Splits(
        parts["train"],
        parts["validation"],
        parts["test"],
        notes=notes,
        skipped=tuple(skipped),
        manifest=manifest,
    )


def _large_enough(
    records: Records, feature: tfds.features.Image, least: int, name: str
) -> tuple[Records, list[str]]:
    """The records whose shorter side has `least` pixels, and a line for each other."""
    height, width = feature.shape[:2]
    if height is not None and width is not None:
        if min(height, width) >= least:
            return records, []
        return records.only(np.zeros(0, int)), [f"{name}: all are {height} x {width} pixels"]
    chosen, small = [], []
    with quiet_pillow():
        for index in range(len(records)):
            height, width = _size(records.encoded(index))
            if min(height, width) >= least:
                chosen.append(index)
            else:
                small.append(
                    f"{name}, number {index}: {height} x {width} pixels; its shorter side must "
                    f"have {least}"
                )
    return (records.only(np.array(chosen, int)) if small else records), small


def _size(encoded: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(encoded)) as picture:
        return picture.size[1], picture.size[0]


def _split_names(builder: tfds.core.DatasetBuilder) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which TFDS splits serve to train, validate and test, and lines that say so."""
    available = {name: info.num_examples for name, info in builder.info.splits.items()}
    available = {name: count for name, count in available.items() if count}
    if not available:
        raise InputError(f"the TFDS data set {builder.name!r} has no examples.")
    names: dict[str, str] = {}
    for name in available:
        role = role_of(name)
        if role is not None:
            names.setdefault(role, name)
    if "train" not in names:
        others = [name for name in available if role_of(name) is None]
        if not others and len(available) > 1:
            raise InputError(
                f"the TFDS data set {builder.name!r} has nothing to train on: its splits are "
                f"{', '.join(available)}."
            )
        names["train"] = max(others or available, key=lambda n: available[n])
        names = {role: n for role, n in names.items() if role == "train" or n != names["train"]}
    train = names["train"]
    missing = [role for role in ("validation", "test") if role not in names]
    held_out = max(1, round(available[train] * HELD_OUT))
    if available[train] <= held_out * len(missing):
        raise InputError(
            f"the TFDS data set {builder.name!r} has {available[train]} pictures to train on: too "
            "few to hold some out to validate and test."
        )
    for index, role in enumerate(missing):
        names[role] = f"{train}[{index * held_out}:{(index + 1) * held_out}]"
    if missing:
        names["train"] = f"{train}[{len(missing) * held_out}:]"
    names = {role: names[role] for role in ROLES}
    unused = sorted(set(available) - {re.split(r"\[", n)[0] for n in names.values()})
    line = (
        f"TFDS splits: {names['train']} to train, {names['validation']} to validate, "
        f"{names['test']} to test"
    )
    return names, (line + (f"; not used: {', '.join(unused)}" if unused else ""),)
