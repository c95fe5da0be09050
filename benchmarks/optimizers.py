"""Which optimiser, rate, clipping and b2: the quick preset's network, trained alike but for those.

    nice python -m benchmarks.optimizers --output STUDY
    python -m benchmarks.optimizers --output STUDY --report

Each training is `python train.py quick` with so many steps; crops, their order and their noise are
the same for all of one seed. STUDY has one JSON for each that is done, with its PSNR (the
averaged parameters, at the end) on the bundled validation and test pictures. SIGTERM or Ctrl-C
stops after a step, and the same command goes on; a training that fails ends the study.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.timing import device
from benchmarks.trainings import train
from sa_flax.files import write_whole


def command(
    run: Path,
    *,
    kind: str,
    rate: float,
    clip: float,
    b2: float,
    final: float,
    seed: int,
    more: list[str],
) -> list[str]:
    """The command of one training."""
    words = [sys.executable, "-m", "sa_flax.training", "quick", "--output", str(run)]
    words += ["--optimizer.kind", kind]
    words += ["--optimizer.learning-rate", f"{rate:g}", "--optimizer.clip-norm", f"{clip:g}"]
    words += ["--optimizer.b2", f"{b2:g}", "--optimizer.final-fraction", f"{final:g}"]
    words += ["--seed", str(seed)]
    return [*words, *more]


def measured(run: Path) -> dict[str, Any]:
    """PSNR in dB of a finished run by set and noise level, and where it ran."""
    training = json.loads((run / "network" / "config.json").read_text())["training"]
    evaluation = json.loads((run / "evaluation.json").read_text())
    rows = [row for row in evaluation["results"] if row["method"] == run.name]
    return {
        "validation": training["validation_psnr"],
        "test": {row["noise"]: row["psnr"] for row in rows},
        "device": device(),
        "versions": evaluation["versions"],
    }


def report(results: list[dict[str, Any]]) -> str:
    """A table in Markdown: one line for each setting, the mean over noise levels, seed by seed."""
    lines = [
        "| optimiser | rate | clipped at | b2 | ends at a share of | steps | validation (dB) "
        "| test (dB) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]

    def setting(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in ("kind", "rate", "clip", "b2", "final", "steps"))

    for key, group in itertools.groupby(sorted(results, key=setting), key=setting):
        rows = sorted(group, key=lambda row: row["seed"])
        cells = [
            " / ".join(f"{statistics.mean(row[kind].values()):.2f}" for row in rows)
            for kind in ("validation", "test")
        ]
        kind, *numbers = key
        lines.append("| " + " | ".join([kind, *(f"{n:g}" for n in numbers), *cells]) + " |")
    return "\n".join(lines)


def main() -> int:
    """Trains what is not done yet; returns 0 when all is, or the code of what ended before."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=["adamw"], help="optimisers")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 2e-3, 4e-3, 8e-3])
    parser.add_argument("--clips", nargs="+", type=float, default=[0.1, 0.2, 1.0])
    parser.add_argument("--b2s", nargs="+", type=float, default=[0.999], help="of AdamW")
    parser.add_argument("--finals", nargs="+", type=float, default=[0.01], help="last rate / rate")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--report", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    folder = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    grid = itertools.product(
        arguments.seeds,
        arguments.kinds,
        arguments.rates,
        arguments.clips,
        arguments.b2s,
        arguments.finals,
    )
    for seed, kind, rate, clip, b2, final in [] if arguments.report else grid:
        varied = f"{kind}-rate{rate:g}-clip{clip:g}-b2{b2:g}-final{final:g}"
        name = f"{varied}-steps{arguments.steps}-seed{seed}"
        result, run = folder / f"{name}.json", folder / "work" / name
        if result.is_file():
            continue
        more = ["--steps", str(arguments.steps), "--evaluate-every", str(arguments.steps)]
        words = command(
            run, kind=kind, rate=rate, clip=clip, b2=b2, final=final, seed=seed, more=more
        )
        code, seconds = train(words)
        if code != 0:
            return code
        row = {
            "kind": kind,
            "rate": rate,
            "clip": clip,
            "b2": b2,
            "final": final,
            "seed": seed,
            "steps": arguments.steps,
            "cpu_seconds_of_last_start": round(seconds, 1),
            **measured(run),
        }
        write_whole(result, json.dumps(row, indent=1) + "\n")
        shutil.rmtree(run)
    print(report([json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
