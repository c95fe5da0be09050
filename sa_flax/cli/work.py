"""The loop of the commands that turn pictures into pictures."""

import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_flax import strict_json
from sa_flax.cli import streams
from sa_flax.cli.commands import unexpected
from sa_flax.cli.jobs import STREAM, Job, Plan, check_target
from sa_flax.cli.progress import Progress
from sa_flax.cli.stopping import Stop, Stopped
from sa_flax.cli.written import note
from sa_flax.errors import InputError, no_room, out_of_memory
from sa_flax.files import is_written_through, write_whole

if TYPE_CHECKING:
    import numpy as np

    from sa_flax.pictures import Picture

Function = Callable[["np.ndarray", int, int], "np.ndarray"]
After = Callable[[Path, Path, "Picture", "Picture"], None]


@dataclass(frozen=True)
class Record:
    """What became of one picture, as reports have it.

    Attributes:
      source, target: the files.
      status: "done", "failed", "skipped" (done before), or "not reached" (stopped before).
      width, height: in pixels, where it was read.
      seconds: for reading, working and writing.
      network: which one denoised it, where it was not the one that was asked for.
      reason: why it failed.
    """

    source: str
    target: str
    status: str
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    network: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Kind:
    """What results are written as, where it is not as their originals.

    Attributes:
      suffix: of all results, e.g. ".png".
      quality: 1 to 100, for the formats that lose something.
    """

    suffix: str | None = None
    quality: int | None = None


@dataclass(frozen=True)
class Words:
    """How much is said.

    Attributes:
      quiet, verbose: as the options.
      verb: what is done to a picture, e.g. "denoised".
    """

    quiet: bool
    verbose: bool
    verb: str


def process(
    plan: Plan,
    function: Function,
    *,
    stop: Stop,
    words: Words,
    after: Sequence[After] = (),
    instead: Callable[[], str | None] = lambda: None,
    at_end: Callable[[Sequence[tuple[str, str]]], None] | None = None,
    json_file: Path | None = None,
    about: dict[str, Any] | None = None,
    kind: Kind | None = None,
) -> int:
    """Reads each picture, applies `function` to its pages and writes the result; the exit code.

    Whatever goes wrong with a picture, it is named and the others are done.

    Args:
      plan: what to do.
      function: (pixels, place among all that was asked for, number of the page from 0) -> pixels.
      stop: says when to end early.
      words: how much is said.
      after: called with source, target, picture and result of each that is done.
      instead: which network the last picture went through, where it was another than usual.
      at_end: called with (source, target) of every picture whose result is there, also where the
        work is stopped.
      json_file: gets a report of every picture, also where the work is stopped.
      about: what the report says besides.
      kind: what the results are written as.

    Raises:
      Stopped: after a signal.
    """
    stream = sys.stderr if any(job.target == STREAM for job in plan.jobs) else sys.stdout
    progress = Progress(len(plan.jobs), quiet=words.quiet, verbose=words.verbose, stream=stream)
    for line in plan.left_out:
        progress.say(f"sa-flax: left out: {line}", stream=sys.stderr)
    records: list[Record] = []
    try:
        for job in plan.jobs:
            with stop.after("this picture, or the tile at hand of a large one"):
                record = _one(job, function, after, instead, progress, words, kind or Kind())
                if record.status == "done" and plan.noted:
                    note(Path(record.target))
            records.append(record)
            if record.status == "no room":  # nor will there be for the others
                records[-1] = dataclasses.replace(record, status="failed")
                no_more = "the rest is not tried. Make room, and repeat the command to go on."
                progress.say(f"sa-flax: {no_more}", stream=sys.stderr)
                break
    except Stopped:
        pass
    finally:
        progress.close()
    _summarise(plan, records, progress, words, stop)
    try:
        if json_file is not None:
            write_report(json_file, plan, records, about or {}, stop)
    finally:
        if at_end is not None:
            there = [(str(job.source), str(job.target)) for job in plan.done]
            at_end(there + [(r.source, r.target) for r in records if r.status == "done"])
    stop.check()
    return 1 if any(r.status == "failed" for r in records) else 0


def _one(
    job: Job,
    function: Function,
    after: Sequence[After],
    instead: Callable[[], str | None],
    progress: Progress,
    words: Words,
    kind: Kind,
) -> Record:
    started = time.monotonic()
    width, height = None, None
    target = job.target
    try:
        if job.refusal:
            raise InputError(job.refusal)
        pages, suffix = streams.read(job.source)
        suffix = kind.suffix or suffix
        target = streams.target_of(job, suffix)
        height, width = pages[0].pixels.shape[:2]
        streams.check_writable(target, suffix, pages)
        results = [
            dataclasses.replace(page, pixels=function(page.pixels, job.index, number))
            for number, page in enumerate(pages)
        ]
        streams.write(target, suffix, results, quality=kind.quality)
        for call in after:
            call(job.source, target, pages[0], results[0])
    except BrokenPipeError:  # of standard output, whose reader has left
        raise
    except Exception as error:  # of a reader, the network or a writer: the rest goes on
        reason = _reason(error, job.source, target, width, height)
        if words.verbose and not isinstance(error, InputError):
            traceback.print_exc()
        progress.failed(reason)
        status = "no room" if no_room(error) else "failed"
        return Record(str(job.source), str(target), status, width, height, reason=reason)
    seconds = time.monotonic() - started
    network = instead()
    how = f"{width} x {height}, {seconds:.1f} s{f', by {network}' if network else ''}"
    progress.done(f"{job.source} -> {target}", how)
    return Record(str(job.source), str(target), "done", width, height, round(seconds, 3), network)


def _reason(
    error: Exception, source: Path, target: Path, width: int | None, height: int | None
) -> str:
    """What went wrong, in one line that names the file."""
    if out_of_memory(error):
        what = f"{width} x {height} pixels" if width else "this file"
        return f"{source}: not enough memory for {what}; cut it into parts."
    text = str(error) if isinstance(error, InputError | OSError) else unexpected(error)
    if any(letter in source.name for letter in "*?[") and not os.path.lexists(source):
        return f"{source}: nothing has a name of this pattern."
    named = str(source) in text or str(target) in text
    return text if named else f"{source}: {text}"


def _summarise(
    plan: Plan, records: Sequence[Record], progress: Progress, words: Words, stop: Stop
) -> None:
    done = sum(record.status == "done" for record in records)
    failed = len(records) - done
    said = []
    if plan.done:
        said.append(
            f"{len(plan.done)} were done already and are newer than their originals (--overwrite "
            "does them again)"
        )
    if stop.number is not None:
        said.append(f"{len(plan.jobs) - len(records)} are left: repeat the command to go on")
    if plan.done and plan.count == 1:
        target = plan.done[0].target
        progress.say(f"{target} is there and newer than its original (--overwrite makes it again).")
    elif plan.count > 1 and (said or failed or done > 1):
        progress.say("; ".join([f"{words.verb} {done} of {plan.count} pictures", *said]) + ".")
    if failed:
        print(f"sa-flax: {failed} of {plan.count} pictures failed.", file=sys.stderr, flush=True)


def write_report(
    path: Path, plan: Plan, records: Sequence[Record], about: dict[str, Any], stop: Stop
) -> None:
    """Writes what became of every picture as JSON.

    Raises:
      StorageError: where the file can't be written.
    """
    entries = [
        *(Record(str(job.source), str(job.target), "skipped") for job in plan.done),
        *records,
        *(Record(str(j.source), str(j.target), "not reached") for j in plan.jobs[len(records) :]),
    ]
    report = {
        **about,
        "pictures": [
            {k: v for k, v in dataclasses.asdict(e).items() if v is not None} for e in entries
        ],
        "left_out": list(plan.left_out),
        "interrupted": stop.number is not None,
    }
    write_json(path, report)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON that every reader takes, through links and into pipes.

    Raises:
      StorageError: where the file can't be written.
    """
    write_whole(path, strict_json.dumps(value, indent=2) + "\n")


def check_report_files(options: Mapping[str, Path | None]) -> None:
    """Raises InputError where the files that are given with options can't be written there.

    Nothing that a report could be meant for is called as pictures are: so none is overwritten.
    """
    from sa_flax.pictures import SUFFIXES

    taken: dict[str, str] = {}
    for option, path in options.items():
        if path is None:
            continue
        if path == STREAM:
            raise InputError(f"{option} takes the name of a file; /dev/stdout is one.")
        if os.path.isdir(path):
            raise InputError(f"{path} is a folder; {option} takes the name of a file.")
        if path.suffix.lower() in SUFFIXES:
            raise InputError(
                f"{path} names a picture; {option} writes a text: give it another name."
            )
        place = os.path.realpath(path)
        if not is_written_through(path):
            check_target(Path(place))
        if place in taken:
            raise InputError(f"{taken[place]} and {option} would both be written to {path}.")
        taken[place] = option
