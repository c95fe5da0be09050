"""Tables and a plot of the study, from its JSON files alone."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.where_to_attend.grid import PLAIN

Result = dict[str, Any]
# (cell, seed) -> the file's content
Results = dict[tuple[str, int], Result]
ALL = "all"


def load(folder: Path) -> Results:
    """Every finished cell in a study's folder."""
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("cells/*.json")))
    return {(result["cell"], result["seed"]): result for result in found}


def scores(result: Result, pictures: str, noise: str, statistics: str | None = None) -> np.ndarray:
    """PSNR of each picture of a set; with the noise "all", the mean over the noises.

    Without `statistics` they are those that the network was trained with.
    """
    statistics = statistics or result["statistics"]
    by_noise = result["psnr"][pictures]
    names = list(by_noise) if noise == ALL else [noise]
    return np.mean([by_noise[name][statistics] for name in names], axis=0)


def differences(
    results: Results,
    cell: str,
    reference: str,
    pictures: str,
    noise: str,
    *,
    statistics: str | None = None,
    reference_statistics: str | None = None,
) -> np.ndarray:
    """Cell minus reference, dB, one number a seed that both have: the mean over the pictures.

    Both saw the same crops with the same noise in training, and the same noisy pictures in the
    test: what they share cancels.
    """
    seeds = sorted({s for c, s in results if c == cell} & {s for c, s in results if c == reference})
    return np.array(
        [
            np.mean(
                scores(results[cell, seed], pictures, noise, statistics)
                - scores(results[reference, seed], pictures, noise, reference_statistics)
            )
            for seed in seeds
        ]
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval (Student's t over the seeds).

    The half-width is NaN for one seed, which says nothing of the spread. It tells what other seeds
    would give on these pictures, not what other pictures would.
    """
    if len(values) < 2:
        return float(np.mean(values)) if len(values) else math.nan, math.nan
    from scipy.stats import t

    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * spread


def _signed(values: np.ndarray) -> str:
    """A difference with its interval; bold where that leaves zero out."""
    mean, half = interval(values)
    if math.isnan(mean):
        return ""
    if math.isnan(half):
        return f"{mean:+.2f} (one seed)"
    text = f"{mean:+.2f} ± {half:.2f}"
    return f"**{text}**" if abs(mean) > half else text


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _order(results: Results) -> list[str]:
    """Cells: the plain network, the others by name, the wider plain ones last."""
    return sorted(
        {cell for cell, _ in results},
        key=lambda cell: (cell != PLAIN, cell.startswith("plain-"), cell),
    )


def _sets(results: Results) -> dict[str, list[str]]:
    """Set -> its noises."""
    first = next(iter(results.values()))["psnr"]
    return {name: list(noises) for name, noises in first.items()}


def tables(results: Results) -> str:
    """Everything as Markdown: in short, cost, equal time, equal parameters, statistics."""
    parts = [_in_short(results), _costs(results)]
    parts += [_equal_time(results, name, noises) for name, noises in _sets(results).items()]
    parts += [_equal_parameters(results), _statistics(results)]
    return "\n\n".join(part for part in parts if part)


def _of(results: Results, cell: str) -> list[Result]:
    """The results of a cell, one a seed."""
    return [result for (name, _), result in results.items() if name == cell]


def _in_short(results: Results) -> str:
    sets, rows = _sets(results), []
    for cell in _order(results):
        first, values = _of(results, cell)[0], []
        for name in sets:
            if cell == PLAIN:
                own = [scores(result, name, ALL).mean() for result in _of(results, cell)]
                values.append(f"{np.mean(own):.2f}")
            else:
                each = differences(results, cell, PLAIN, name, ALL)
                values.append(" / ".join(f"{value:+.2f}" for value in each))
        cost = [f"{first['parameters']:,}", f"{first['step_ms']:.0f}", f"{first['steps']:,}"]
        rows.append([f"`{cell}`", *cost, *values])
    return (
        "## In short\n\n"
        f"Mean over the noises; dB over `{PLAIN}`, one figure a seed.\n\n"
        + _markdown(["network", "parameters", "step (ms)", "steps", *sets], rows)
    )


def _costs(results: Results) -> str:
    rows = []
    for cell in _order(results):
        seeds = _of(results, cell)
        used = np.mean([result["cpu_seconds"] for result in seeds]) / 60
        first = seeds[0]
        rows.append(
            [
                f"`{cell}`", f"{first['parameters']:,}", f"{first['step_ms']:.1f}",
                f"{first['steps']:,}", f"{used:.2f}", str(len(seeds)),
            ]
        )  # fmt: skip
    head = ["network", "parameters", "step, processor ms", "steps", "processor minutes", "seeds"]
    return "## Cost\n\n" + _markdown(head, rows)


def _equal_time(results: Results, pictures: str, noises: list[str]) -> str:
    rows = []
    for cell in _order(results):
        values = []
        for noise in (*noises, ALL):
            if cell == PLAIN:
                own = [scores(result, pictures, noise).mean() for result in _of(results, cell)]
                values.append(f"{np.mean(own):.2f}")
            else:
                values.append(_signed(differences(results, cell, PLAIN, pictures, noise)))
        rows.append([f"`{cell}`", *values])
    return (
        f"## Equal processor time: {pictures}\n\n"
        f"dB over `{PLAIN}`, whose own PSNR stands in its row.\n\n"
        + _markdown(["network", *noises, ALL], rows)
    )


def _equal_parameters(results: Results) -> str:
    """Empty where no network has a control."""
    sets, rows = _sets(results), []
    for cell in _order(results):
        control = _of(results, cell)[0]["control"]
        if control is not None:
            values = [_signed(differences(results, cell, control, name, ALL)) for name in sets]
            rows.append([f"`{cell}`", f"`{control}`", *values])
    if not rows:
        return ""
    return (
        "## Equal parameters and equal processor time\n\n"
        "dB over the plain network whose parameters come nearest, all noises.\n\n"
        + _markdown(["network", "against", *sets], rows)
    )


def _statistics(results: Results) -> str:
    """Empty where no network pools."""
    sets, rows = _sets(results), []
    for cell in _order(results):
        by_noise = next(iter(_of(results, cell)[0]["psnr"].values()))
        kinds = [kind for kind in ("window", "both") if kind in next(iter(by_noise.values()))]
        for kind in kinds:
            own = {"statistics": kind, "reference_statistics": "whole"}
            values = [_signed(differences(results, cell, cell, name, ALL, **own)) for name in sets]
            rows.append([f"`{cell}`", kind, *values])
    if not rows:
        return ""
    return (
        "## Statistics in the test\n\n"
        "dB over the same network with statistics of the whole picture, all noises.\n\n"
        + _markdown(["network", "statistics", *sets], rows)
    )


def plot(results: Results, path: Path) -> None:
    """Differences to the plain network: a panel a set, a colour a noise.

    Small dots are seeds, the bar is the interval, which goes on beyond the panel where it is wide.
    """
    from matplotlib.figure import Figure

    cells = [cell for cell in _order(results) if cell != PLAIN][::-1]
    sets = _sets(results)
    figure = Figure(figsize=(2.2 + 2.6 * len(sets), 1.4 + 0.36 * len(cells)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(sets), sharey=True))
    for panel, (name, noises) in zip(panels, sets.items(), strict=True):
        found = []
        for index, noise in enumerate(noises):
            shift = 0.6 * (index / max(len(noises) - 1, 1) - 0.5)
            for row, cell in enumerate(cells):
                values = differences(results, cell, PLAIN, name, noise)
                if not len(values):
                    continue
                mean, half = interval(values)
                found += list(values)
                panel.plot(values, [row - shift] * len(values), ".", ms=2, color=f"C{index}")
                panel.errorbar(
                    mean, row - shift, xerr=None if math.isnan(half) else half, fmt="o", ms=3,
                    color=f"C{index}", label=noise if not row else None, lw=1,
                )  # fmt: skip
        panel.set_xlim(min([0.0, *found]) - 0.2, max([0.0, *found]) + 0.2)
        panel.axvline(0, color="0.5", lw=0.8)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel(f"dB over {PLAIN}")
        panel.grid(alpha=0.3)
    panels[0].set_yticks(range(len(cells)), cells)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=len(labels), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
