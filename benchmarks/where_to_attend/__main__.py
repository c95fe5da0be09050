"""Where should attention sit: in the encoder, the decoder, both, or nowhere?

    nice python -m benchmarks.where_to_attend --data DIR          # the main grid, three seeds
    python -m benchmarks.where_to_attend --plan                   # what that will take
    python -m benchmarks.where_to_attend --report                 # tables and plot, from the JSONs
    python -m benchmarks.where_to_attend --grids affinities forms --seeds 0 1 2

Every network (see `grid`) trains for the same processor time, and is compared with the network
without attention, and with a plain network that was widened to its parameters, of the same seed:
same crops, same order, same noise. Equal time is of the processor, over all threads, and not of the
clock: first a step of every network is timed, all in turn on one machine (OUTPUT/costs.json); the
budget divided by that is the number of its steps, over which its rate falls by a cosine. What the
steps took in the end is in the results.

They train on the bundled photographs, on noise that is white or correlated, and are tested on
pictures of three or four kinds (see `pictures.held_out_sets`; --data DIR adds BSDS500's and Set12)
with sigma 15, 25 and 50 and with correlated noise; networks whose attention pools also with
statistics of a window of the crop's size in place of the whole picture, and with the mean of both.

OUTPUT/cells has one JSON for each network and seed; the same command goes on with what is missing.
SIGTERM or Ctrl-C keeps the state of the training at hand; it goes on from there. The first seed of
all networks comes before the second of any, so that what there is can be compared at any time.
"""

import argparse
import dataclasses
import json
import os
import platform
import signal
import sys
from pathlib import Path

from sa_flax.errors import InputError, exit_code
from sa_flax.files import write_whole
from sa_flax.xla_flags import keep_compiled, tune_cpu


class _Stop:
    """Whether SIGTERM or Ctrl-C came, and which."""

    number: int | None = None

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: setattr(self, "number", number))

    def __call__(self) -> bool:
        return self.number is not None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    from benchmarks.where_to_attend.grid import grids
    from benchmarks.where_to_attend.settings import Settings

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.where_to_attend", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--output", type=Path, default=Path("runs/where_to_attend"), help="folder")
    parser.add_argument("--data", type=Path, help="folder with further test sets")
    parser.add_argument("--grids", nargs="+", choices=list(grids(4)), default=["main"])
    parser.add_argument(
        "--cells", nargs="+", help="only these networks (and what they are held to)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--plan", action="store_true", help="say what it will take, and stop")
    parser.add_argument("--report", action="store_true", help="only tables and plot")
    parser.add_argument("--timing", type=float, default=120, help="seconds to time the steps for")
    for field in dataclasses.fields(Settings):
        kind = {"source": str, "minutes": float, "rate": float}.get(field.name, int)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    return parser.parse_args(arguments)


def study(arguments: argparse.Namespace) -> int:
    """Trains what is missing; returns the exit code."""
    import jax

    from benchmarks.timing import device
    from benchmarks.where_to_attend import cell as cells_
    from benchmarks.where_to_attend.grid import PLAIN, grids, parameters, with_controls
    from benchmarks.where_to_attend.pictures import held_out_sets
    from benchmarks.where_to_attend.settings import Settings, settle

    settings = Settings(
        **{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Settings)}
    )
    output: Path = arguments.output
    settle(settings, output)
    size = {"width": settings.width, "levels": settings.levels}
    known = {c.name: c for cells in grids(settings.levels).values() for c in cells}
    names = arguments.cells or [
        c.name for grid in arguments.grids for c in grids(settings.levels)[grid]
    ]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--cells {', '.join(unknown)}: unknown. Known: {', '.join(known)}.")
    names = list(dict.fromkeys([PLAIN, *names]))
    cells, matched = with_controls([known[name] for name in names], **size)

    costs_file = output / "costs.json"
    costs = json.loads(costs_file.read_text()) if costs_file.is_file() else {}
    costs = cells_.add_costs(costs, cells, settings, seconds=arguments.timing)
    write_whole(costs_file, json.dumps(costs, indent=1) + "\n")
    steps = {c.name: cells_.steps_of(costs[c.name], settings) for c in cells}
    todo = [
        (seed, c)
        for seed in arguments.seeds
        for c in cells
        if not (output / "cells" / f"{c.name}-{seed}.json").is_file()
    ]
    minutes = sum(steps[c.name] * costs[c.name] for _, c in todo) / 60e3
    print(f"{len(todo)} trainings, {minutes:.1f} processor minutes besides compiling and testing")
    if arguments.plan:
        for c in cells:
            print(f"  {c.name:<24}{costs[c.name]:>8.1f} ms a step{steps[c.name]:>9,} steps")
        return 0

    stop = _Stop()
    stop.listen()
    sets = held_out_sets(
        data=arguments.data, source=settings.source, largest=settings.largest, most=settings.most
    )
    for seed, c in todo:
        work = output / "work" / f"{c.name}-{seed}.npz"
        try:
            trained = cells_.train(
                c, settings, seed=seed, steps=steps[c.name], work=work, stopped=stop
            )
            psnr = cells_.measure(
                trained.model, sets, window=c.window or settings.crop, stopped=stop
            )
        except cells_.StoppedError:
            print(f"stopped in {c.name}, seed {seed}; the same command goes on with it")
            return 128 + (stop.number or signal.SIGTERM)
        except FloatingPointError as error:
            print(error, file=sys.stderr)
            return 1
        result = {
            "cell": c.name,
            "seed": seed,
            "control": matched.get(c.name),
            "parameters": parameters(c, **size),
            "statistics": "window" if c.window else "whole",
            "step_ms": round(costs[c.name], 3),
            "steps": trained.steps,
            "cpu_seconds": round(trained.cpu_seconds, 2),
            "curve": trained.curve,
            "settings": dataclasses.asdict(settings),
            "machine": {
                "device": device(), "python": platform.python_version(), "jax": jax.__version__,
                "xla_flags": os.environ.get("XLA_FLAGS", ""),
            },
            "psnr": psnr,
        }  # fmt: skip
        write_whole(output / "cells" / f"{c.name}-{seed}.json", json.dumps(result) + "\n")
        work.unlink(missing_ok=True)
        print(f"{c.name}, seed {seed}: done", flush=True)
    return 0


def report(output: Path) -> int:
    """Prints the tables and draws the plot; returns the exit code."""
    from benchmarks.where_to_attend.report import load, plot, tables

    results = load(output)
    if not results:
        raise InputError(f"{output}: holds no finished network yet.")
    print(tables(results))
    plot(results, output / "where_to_attend.png")
    print(f"wrote {output / 'where_to_attend.png'}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    tune_cpu()
    options = parse(arguments)

    def run() -> int:
        if options.report:
            return report(options.output)
        keep_compiled()
        code = study(options)
        return code or (0 if options.plan else report(options.output))

    return exit_code("where_to_attend", run)


if __name__ == "__main__":
    sys.exit(main())
