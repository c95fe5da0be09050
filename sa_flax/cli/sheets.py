"""The sheets of `denoise --compare`: where they go, in nobody's place, and which are missing."""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax.cli.jobs import STREAM, Job, Plan
from sa_flax.cli.stopping import Stop
from sa_flax.cli.written import Written, note
from sa_flax.errors import InputError

if TYPE_CHECKING:
    from sa_flax.pictures import Picture


class Sheets:
    """A sheet beside each result: a_compare.png, or a.jpg_compare.png where there is an a.png, too.

    Args:
      plan: the pictures and their results.
      overwrite: replace what is in a sheet's place, whatever it is.

    Attributes:
      plan: the same, where what may be somebody's picture is in the way of a sheet with a refusal.

    Raises:
      InputError: where a sheet would overwrite an original or a result.
    """

    def __init__(self, plan: Plan, *, overwrite: bool):
        jobs = [*plan.jobs, *plan.done]
        alike = collections.Counter(_short(job.target) for job in jobs)
        self._long = {job.target for job in jobs if alike[_short(job.target)] > 1}
        taken = {os.path.realpath(path) for job in jobs for path in (job.source, job.target)}
        for job in jobs:
            sheet = self.of(job.target)
            if os.path.realpath(sheet) in taken:
                raise InputError(
                    f"{sheet}, the sheet of --compare for {job.source}, would overwrite another "
                    "picture. Choose another --output."
                )
        if not overwrite:
            written = Written()
            told = [self._told(job, written) for job in jobs]
            done = tuple(job for job in told if job in plan.done)
            to_do = tuple(job for job in told if job not in done)
            plan = dataclasses.replace(plan, jobs=to_do, done=done)
        self.plan = plan

    def of(self, target: Path) -> Path:
        """Where the sheet of a result goes."""
        if target in self._long:
            return target.with_name(f"{target.name}_compare.png")
        return _short(target)

    def _told(self, job: Job, written: Written) -> Job:
        """With a refusal where the sheet's place is taken, by nothing that is known for a sheet."""
        sheet = self.of(job.target)
        # The result of a stream is made each time, under a name that is not known yet.
        if job.refusal or job.source == STREAM or not os.path.lexists(sheet):
            return job
        if _is_newer(sheet, job.target) or written.has(sheet):
            return job
        reason = (
            f"{sheet}: is there already and no sheet of {job.target}, so it may be a picture of "
            "yours; --overwrite replaces it."
        )
        return dataclasses.replace(job, refusal=reason)

    def write(self, source: Path, target: Path, before: "Picture", after: "Picture") -> None:
        """Writes the sheet of one picture."""
        from sa_flax.inference.comparison import compare
        from sa_flax.pictures import Picture, write_picture

        del source
        write_picture(self.of(target), Picture(compare(before.pixels, after.pixels), {}))
        if self.plan.noted:
            note(self.of(target))

    def complete(self, there: Sequence[tuple[str, str]], stop: Stop) -> None:
        """Writes those that are missing beside results of before, or older, from the files.

        Args:
          there: (source, target) of every result.
          stop: nothing more is written once it was asked for.
        """
        from sa_flax.pictures import read_pages

        for source, target in ((Path(first), Path(second)) for first, second in there):
            if source == STREAM or _is_newer(self.of(target), target) or stop.number is not None:
                continue
            self.write(source, target, read_pages(source)[0], read_pages(target)[0])


def _short(target: Path) -> Path:
    return target.with_name(f"{target.stem}_compare.png")


def _is_newer(sheet: Path, target: Path) -> bool:
    """Whether the sheet was written after the result, as they are."""
    try:
        return os.stat(sheet).st_mtime_ns >= os.stat(target).st_mtime_ns
    except OSError:
        return False
