"""What a command says while it works: one bar in a terminal, plain lines elsewhere."""

import sys
import time
from typing import TextIO


class Progress:
    """Shows how far a batch is, and how long it will take: "17 of 200, 4 min left".

    In a terminal that is a bar on standard error; elsewhere every picture has its line.

    Args:
      total: number of pictures.
      quiet: say nothing but what failed.
      verbose: show every picture's line in a terminal, too.
      stream: where lines go; standard output unless pictures go there.
    """

    def __init__(self, total: int, *, quiet: bool, verbose: bool, stream: TextIO):
        self._total, self._quiet, self._stream = total, quiet, stream
        self._count, self._started, self._first = 0, time.monotonic(), 0.0
        self._bar = None
        if not quiet and total > 1 and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                desc=f"0 of {total}",
                bar_format="{desc} |{bar}|",
                dynamic_ncols=True,
                leave=False,
            )
        self._lines = not quiet and (verbose or self._bar is None)

    def done(self, line: str, detail: str) -> None:
        """A picture is done: `line (detail)`."""
        place = self._advance()
        if self._lines:
            self._write(f"{line} ({detail}{f'; {place}' if place else ''})", self._stream)

    def failed(self, line: str) -> None:
        """A picture failed; this is said however quiet the command shall be."""
        self._advance()
        self._write(f"sa-flax: {line}", sys.stderr)

    def say(self, line: str, *, stream: TextIO | None = None) -> None:
        """A line that is about no single picture."""
        if not self._quiet:
            self._write(line, stream or self._stream)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()

    def _advance(self) -> str:
        self._count += 1
        now = time.monotonic()
        if self._count == 1:  # compiling is part of it
            self._first = now
        place = f"{self._count} of {self._total}" if self._total > 1 else ""
        if 1 < self._count < self._total:
            each = (now - self._first) / (self._count - 1)
            place += f", {time_left(each * (self._total - self._count))} left"
        if self._bar is not None:
            self._bar.set_description_str(place, refresh=False)
            self._bar.update()
        return place

    def _write(self, line: str, stream: TextIO) -> None:
        if self._bar is not None:
            self._bar.write(line, file=stream)
        else:
            print(line, file=stream, flush=True)


def time_left(seconds: float) -> str:
    """A span of time as a person says it: "20 s", "4 min", "2 h 10 min"."""
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
