"""Files in, files out: which pictures are asked for, where results go, what is done already."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sa_flax.cli.written import Written
from sa_flax.errors import InputError

_NAMED = 10  # files that are left out, by name
STREAM = Path("-")  # standard input or output
UNNAMED = "stdin"  # what the picture from standard input is called in a folder, and its suffix
# Endings that mean a file, not a folder, of a kind that is not written.
_NOT_WRITTEN = (".jp2", ".tga", ".psd", ".exr", ".hdr", ".svg", ".pdf", ".npy")


@dataclass(frozen=True)
class Job:
    """One picture to work on.

    Attributes:
      source: the picture, or `STREAM`.
      target: where the result goes, or `STREAM`.
      index: its place among all that is asked for, done or not.
      refusal: why it can't be done, where that is known already.
    """

    source: Path
    target: Path
    index: int
    refusal: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to do.

    Attributes:
      jobs: the pictures to work on, in order.
      done: those whose result is there and newer than they are.
      left_out: a line for each file that was found and won't be worked on, with the reason.
      noted: whether results are noted as such, see `written`: in folders, not where one file is
        asked for.
    """

    jobs: tuple[Job, ...]
    done: tuple[Job, ...] = ()
    left_out: tuple[str, ...] = field(default=())
    noted: bool = False

    @property
    def count(self) -> int:
        """How many pictures were asked for."""
        return len(self.jobs) + len(self.done)


def plan(
    paths: Sequence[Path], output: Path, *, overwrite: bool = False, suffix: str | None = None
) -> Plan:
    """Plans the results of `paths` under `output`.

    Pictures in folders keep their place below the folder. `output` is the file to write where
    there is one picture and `output` ends as pictures do; else a folder. What lies in that folder
    is a result and no picture to work on, so that it may lie inside a folder of pictures.

    Args:
      paths: picture files, folders, or `STREAM` for standard input.
      output: a folder, a file, or `STREAM` for standard output.
      overwrite: do what is done already once more.
      suffix: of all results; by default each has its original's, where that can be written.

    Raises:
      InputError: where nothing is asked for, a folder holds no pictures, two results would have
        one name, a result would overwrite an original, `output` can't be what it should be, or is
        of another kind than `suffix` says.
    """
    if not paths:
        raise InputError("give at least one picture or folder.")
    if output == STREAM:
        return _to_stream(paths)
    one_file = len(paths) == 1 and not os.path.isdir(paths[0])
    if one_file and not os.path.isdir(output):
        _check_ending(output)
    named = one_file and _names_a_picture(output) and not os.path.isdir(output)
    if named:
        _check_kind(output, suffix)
        found, left_out = [(paths[0], output)], list[str]()
    else:
        if not one_file and _names_a_picture(output) and not os.path.exists(output):
            raise InputError(
                f"{output} names a picture, and more than one is asked for: give a folder, "
                f"--output {output.stem}, or make {output} first if that shall be one."
            )
        if os.path.exists(output) and not os.path.isdir(output):
            raise InputError(
                f"{output} is a file; --output must be a folder"
                f"{'' if one_file else ' where there is more than one picture'}."
            )
        found, left_out = _into_folder(paths, output, suffix)
    _check_clashes(found)
    jobs = [Job(source, target, index) for index, (source, target) in enumerate(found)]
    if overwrite:
        return Plan(tuple(jobs), left_out=tuple(left_out), noted=not named)
    done = tuple(job for job in jobs if _is_done(job))
    written = Written()
    to_do = [
        dataclasses.replace(job, refusal=_may_be_an_original(job, written))
        for job in jobs
        if job not in done
    ]
    return Plan(tuple(to_do), done, tuple(left_out), noted=not named)


def _may_be_an_original(job: Job, written: Written) -> str:
    """Why a job is refused whose result's place is taken by a picture that is older."""
    taken = os.path.lexists(job.target) and not os.path.isdir(job.target)
    if job.source == STREAM or not taken or written.has(job.target):
        return ""
    return (
        f"{job.target}: is there already and older than {job.source}, so it may be a picture of "
        "yours; --overwrite replaces it."
    )


def _check_ending(output: Path) -> None:
    """Raises InputError for a file whose ending means a kind of picture that is not written."""
    from sa_flax.pictures import SUFFIXES, output_suffix

    ending = output.suffix.lower()
    known = ending in SUFFIXES
    if ending in _NOT_WRITTEN or (known and output_suffix(output).lower() != ending):
        raise InputError(
            f"{output}: {ending} files can't be written; name it .png, .tif, .jpg or .webp."
        )


def _check_kind(output: Path, suffix: str | None) -> None:
    """Raises InputError where the suffix that is asked for is another kind than the file's."""
    from sa_flax.pictures.formats import by_suffix

    if suffix is not None and by_suffix(output) is not by_suffix(f"a{suffix}"):
        raise InputError(
            f"{output} is to be {output.suffix}, and --format {suffix[1:]} says otherwise: leave "
            "--format out, or name the file so."
        )


def _names_a_picture(path: Path) -> bool:
    from sa_flax.pictures import SUFFIXES

    return path.suffix.lower() in SUFFIXES


def _to_stream(paths: Sequence[Path]) -> Plan:
    if len(paths) != 1 or os.path.isdir(paths[0]):
        raise InputError("--output - writes one picture to standard output; give one picture.")
    if sys.stdout.isatty():
        raise InputError("--output - would fill the terminal with a picture; redirect it: > FILE.")
    return Plan((Job(paths[0], STREAM, 0),))


def _into_folder(
    paths: Sequence[Path], output: Path, suffix: str | None
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(source, target) of all pictures, and lines about files that are left out."""
    from sa_flax.pictures import survey

    found: list[tuple[Path, Path]] = []
    left_out: list[str] = []
    for path in paths:
        if path == STREAM:
            found.append((path, output / UNNAMED))  # its suffix is known once it is read
        elif os.path.isdir(path):
            pictures, others = survey(path)
            left_out += [f"{other}: {reason}" for other, reason in others[:_NAMED]]
            if len(others) > _NAMED:
                left_out.append(f"{path}: {len(others) - _NAMED} more files that are no pictures")
            own = set() if _holds(output, path) else results_in(output, pictures)
            if own:
                left_out.append(f"{output}: {len(own)} pictures in it, which are results")
            pictures = [picture for picture in pictures if picture not in own]
            if not pictures:
                raise InputError(f"no pictures in {path}.")
            found += [(picture, output / picture.relative_to(path)) for picture in pictures]
        else:
            found.append((path, output / path.name))
    # A file named beside its folder is one picture, not two of one name.
    once = {(target, os.path.realpath(source)): (source, target) for source, target in found}
    return _with_suffixes(list(once.values()), suffix), left_out


def _with_suffixes(
    found: Sequence[tuple[Path, Path]], suffix: str | None
) -> list[tuple[Path, Path]]:
    """Targets with the suffix that is asked for, or with one that can be written.

    The result of a.gif is a.png, or a.gif.png where a.png is another's; that of a.b, where .b is no
    suffix of a picture, is a.b.png, or whatever is in it.
    """
    from sa_flax.pictures import output_suffix, start_of

    natural = {target for _, target in found}
    named = []
    for source, target in found:
        if target.name != UNNAMED:
            known = _names_a_picture(target)
            written = suffix or output_suffix(target, b"" if known else start_of(source))
            appended = target.with_name(target.name + written)
            if not known:
                target = appended
            elif written.lower() != target.suffix.lower():
                renamed = target.with_suffix(written)
                target = appended if renamed in natural else renamed
        named.append((source, target))
    return named


def results_in(output: Path, pictures: Sequence[Path]) -> set[Path]:
    """Those of `pictures` that lie in the folder `output`."""
    if not os.path.isdir(output):
        return set()
    folder = os.path.join(os.path.realpath(output), "")
    inside = {
        parent: os.path.join(os.path.realpath(parent), "").startswith(folder)
        for parent in {picture.parent for picture in pictures}
    }
    return {picture for picture in pictures if inside[picture.parent]}


def _holds(outer: Path, inner: Path) -> bool:
    """Whether `inner` is the folder `outer`, or lies in it."""
    outside, inside = (os.path.join(os.path.realpath(p), "") for p in (outer, inner))
    return inside.startswith(outside)


def _check_clashes(found: Sequence[tuple[Path, Path]]) -> None:
    taken: dict[Path, Path] = {}
    for source, target in found:
        if target in taken:
            raise InputError(
                f"{taken[target]} and {source} would both be written to {target}. Denoise them "
                "into different folders."
            )
        taken[target] = source
    originals = {os.path.realpath(source) for source, _ in found}
    for target in taken:
        if os.path.realpath(target) in originals:
            raise InputError(f"{target} would overwrite an original. Choose another --output.")


def _is_done(job: Job) -> bool:
    try:
        return (
            os.path.isfile(job.target)
            and job.source != STREAM
            and os.stat(job.target).st_mtime_ns >= os.stat(job.source).st_mtime_ns
        )
    except OSError:  # a source that is not there fails when it is read
        return False


def check_target(target: Path) -> None:
    """Raises InputError where `target` can't be written, as far as one can see beforehand."""
    if os.path.isdir(target):
        raise InputError(f"{target}: can't be written: a folder of this name is in the way.")
    folder = target.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        raise InputError(f"{target}: can't be written: {folder} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{target}: can't be written: no permission to write in {folder}.")
