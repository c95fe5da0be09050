"""The sheets of `denoise --compare`: where they go, in nobody's place, and which are missing."""

import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax.cli.jobs import STREAM, Job, Plan
from sa_flax.cli.stopping import Stop
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
            refused = [self._refused(job) for job in plan.jobs]
            plan = dataclasses.replace(plan, jobs=tuple(refused))
        self.plan = plan

    def of(self, target: Path) -> Path:
        """Where the sheet of a result goes."""
        if target in self._long:
            return target.with_name(f"{target.name}_compare.png")
        return _short(target)

    def _refused(self, job: Job) -> Job:
        sheet = self.of(job.target)
        if job.source == STREAM:  # whose result is made each time, under a name not known yet
            return job
        if job.refusal or not os.path.lexists(sheet) or _is_newer(sheet, job.target):
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

    def complete(self, there: Sequence[tuple[str, str]], stop: Stop) -> None:
        """Writes those that are missing beside results of before, from the files.

        Args:
          there: (source, target) of every result.
          stop: nothing more is written once it was asked for.
        """
        from sa_flax.pictures import read_pages

        for source, target in ((Path(first), Path(second)) for first, second in there):
            if source == STREAM or os.path.lexists(self.of(target)) or stop.number is not None:
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
