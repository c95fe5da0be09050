"""What a run shows and leaves: a start-up table, a progress bar, JSONL, TensorBoard, pictures."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from sa_flax import strict_json
from sa_flax.files import write_whole

METRICS = "metrics.jsonl"


def _tensorboard() -> ModuleType:
    """tensorboardX; it would load PyTorch where that is installed, for seconds and for nothing."""
    absent = "torch" not in sys.modules
    if absent:
        # Its import fails then, which tensorboardX is prepared for.
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX
    finally:
        if absent:
            del sys.modules["torch"]
    return tensorboardX


def format_facts(facts: dict[str, Any]) -> str:
    """A two-column table of what a run is."""
    width = max(len(name) for name in facts) + 2
    return "\n".join(f"  {name:<{width}}{value}" for name, value in facts.items())


class RunLog:
    """Writes the course of a run: to the terminal, metrics.jsonl, and TensorBoard.

    In a terminal there is a progress bar; elsewhere (a file, a pipe) each log line is printed.

    Args:
      run: the run's directory.
      steps: number of steps of the whole run.
      start: steps done already; entries after it, left by a run that was interrupted after its
        last checkpoint, are dropped: they will be written again.
    """

    def __init__(self, run: Path, *, steps: int, start: int = 0):
        self.path = run / METRICS
        kept = [entry for entry in read_metrics(run) if entry["step"] <= start]
        write_whole(self.path, "".join(strict_json.dumps(entry) + "\n" for entry in kept))
        self._file = self.path.open("a", buffering=1)
        self._board = _tensorboard().SummaryWriter(
            str(run / "tensorboard"), purge_step=start + 1, flush_secs=10
        )
        self._steps = steps
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}% |{bar}| {n}/{total} [{elapsed}<{remaining}]{postfix}",
        )
        self._clock, self._last_step = time.monotonic(), start
        self._waited = self._trained = 0.0

    def step(self) -> None:
        """Counts one step on the bar."""
        self._bar.update()

    def metrics(self, step: int, values: dict[str, float], *, images_per_step: int) -> None:
        """Logs the means of the training metrics since the last call.

        Of `seconds_waiting_for_data` the share in the time since then is logged as well.
        """
        now = time.monotonic()
        elapsed = max(now - self._clock, 1e-9)
        speed = (step - self._last_step) / elapsed
        waited = min(values["seconds_waiting_for_data"] / elapsed, 1.0)
        self._waited += waited * elapsed
        self._trained += elapsed
        self._clock, self._last_step = now, step
        values = {
            **values,
            "images_per_second": speed * images_per_step,
            "share_waiting_for_data": waited,
        }
        self._write(step, {f"train/{name}": value for name, value in values.items()})
        text = (
            f"loss {values['loss']:.4f}  PSNR {values['psnr']:.2f} dB  " if "loss" in values else ""
        ) + f"rate {values['learning_rate']:.1e}  {values['images_per_second']:.0f} images/s"
        if waited > 0.02:
            text += f"  (waiting for data {waited:.0%})"
        if values["skipped"]:
            text += f"  ({values['skipped']:.0f} updates skipped: not finite)"
        self._bar.set_postfix_str(text)
        if self._bar.disable:
            left = (self._steps - step) / max(speed, 1e-9)
            print(f"step {step:>6}/{self._steps}  {text}  {_minutes(left)} left", flush=True)

    def summary(self) -> str:
        """How long training took, without evaluations, and how much of that it waited for data."""
        share = self._waited / max(self._trained, 1e-9)
        return f"{_minutes(self._trained)} of training, {share:.1%} of it waiting for data"

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Logs validation figures at a step."""
        self._write(step, {f"validation/{name}": value for name, value in values.items()})
        text = "  ".join(f"{name} {value:.2f}" for name, value in values.items())
        self.say(f"step {step:>6}/{self._steps}  validation: {text}")
        # Time spent on validation is not training time.
        self._clock = time.monotonic()

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows a (H, W, 3) uint8 picture in TensorBoard."""
        self._board.add_image(name, picture, step, dataformats="HWC")

    def say(self, line: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def _write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(strict_json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Finishes the bar and flushes the files."""
        self._bar.close()
        self._file.close()
        self._board.close()


class NoLog:
    """Takes what a RunLog takes and writes nothing: the log of all processes but the first."""

    def step(self) -> None:
        """Nothing."""

    def metrics(self, step: int, values: dict[str, float], *, images_per_step: int) -> None:
        """Nothing."""

    def validation(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The entries of a run's metrics.jsonl, up to the first line that is none.

    Such a line was cut short by a crash, or put there by someone else.
    """
    path = run / METRICS
    entries = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:  # no JSON, or no text in UTF-8
            break
        if not (isinstance(entry, dict) and isinstance(entry.get("step"), int)):
            break
        entries.append(entry)
    return entries


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def save_png(path: Path, picture: np.ndarray) -> None:
    """Writes a (H, W, 3) uint8 picture, whole or not at all."""
    write_whole(path, lambda file: Image.fromarray(picture).save(file, "PNG"))


def save_learning_curve(run: Path) -> Path:
    """Draws training loss and validation PSNR against the step; returns the PNG's path."""
    with matplotlib.rc_context({"font.size": 9}):
        figure = draw_learning_curve(read_metrics(run))
        path = run / "learning_curve.png"
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=150))
    return path


def draw_learning_curve(entries: list[dict[str, float]]) -> Figure:
    """The figure of `save_learning_curve`, of a log's entries."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    loss_axes, psnr_axes = figure.subplots(1, 2)
    _plot(loss_axes, entries, "train/loss", "")
    loss_axes.set_ylabel("training loss")
    if all((entry.get("train/loss") or 1.0) > 0 for entry in entries):  # not so by log_mse
        loss_axes.set_yscale("log")
    for name in sorted({key for e in entries for key in e if key.startswith("validation/")}):
        _plot(psnr_axes, entries, name, name.removeprefix("validation/"))
    psnr_axes.set_ylabel("validation PSNR, dB")
    if psnr_axes.lines:  # not so where a run was stopped before its first validation
        figure.legend(loc="outside right upper")  # inside it would cover a curve
    return figure


def _plot(axes, entries: list[dict[str, float]], name: str, label: str) -> None:
    points = [(e["step"], e[name]) for e in entries if e.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.5)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
