"""`sa-flax evaluate`: how good a network is, in figures."""

import argparse
import os
import sys
from pathlib import Path

from sa_flax.cli import networks, work
from sa_flax.cli.options import Parser, add_words, level, seed
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError

COMPUTES = True
LEVELS = (15.0, 25.0, 50.0)


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "evaluate NAME --images DIR",
        description="Measures PSNR and SSIM of a network under the published protocol: Gaussian "
        "noise, not clipped; the result clipped and rounded to 8 bits; means over the pictures.",
        examples=(
            "evaluate runs/quick --images kodak24 --sigma 15 25 50",
            "evaluate photo --images kodak24 --baseline --json scores.json",
        ),
    )
    options.add_argument("model", nargs="?", metavar="NAME", help=networks.HELP)
    options.add_argument(
        "--images", required=True, type=Path, metavar="DIR", help="folder of clean pictures"
    )
    options.add_argument(
        "--sigma",
        nargs="+",
        type=level,
        default=LEVELS,
        metavar="LEVEL",
        help="noise levels, 0-255 (default: 15 25 50)",
    )
    options.add_argument(
        "--baseline", action="store_true", help="measure scikit-image's non-local means as well"
    )
    options.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="fixes the noise (default: 0)"
    )
    options.add_argument(
        "--json", type=Path, metavar="FILE", help="write the results to this file as well"
    )
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Measures what `options` ask for; returns the exit code."""
    del stop  # nothing is half-done here: a signal ends it at once
    from sa_flax.data.builders import find_pictures
    from sa_flax.data.decoding import read_rgb8
    from sa_flax.data.pipeline import to_channels
    from sa_flax.inference import evaluate as evaluation

    work.check_report_file("--json", options.json)
    images = options.images
    if not os.path.isdir(images):
        raise InputError(f"no folder {images}. --images takes a folder of clean pictures.")
    files = find_pictures(images)
    if not files:
        raise InputError(f"no pictures in {images}.")
    denoiser = networks.load(options.model)
    model = options.model or networks.default()
    pictures, failed = [], 0
    for file in files:
        try:
            picture = read_rgb8(file)
            if min(picture.shape[:2]) < evaluation.SMALLEST:
                height, width = picture.shape[:2]
                raise InputError(
                    f"{file}: is {width} x {height} pixels; SSIM is defined from "
                    f"{evaluation.SMALLEST} x {evaluation.SMALLEST}."
                )
            pictures.append(to_channels(picture, denoiser.channels))
        except InputError as error:
            failed += 1
            print(f"{str(error).removesuffix('.')}; left out.", file=sys.stderr)
    if not pictures:
        raise InputError(f"none of the {len(files)} pictures in {images} can be used.")
    methods: dict[str, evaluation.Method] = {}
    if options.baseline:
        methods[evaluation.BASELINE] = evaluation.non_local_means
    methods[evaluation.label(model)] = denoiser.method
    rows = evaluation.evaluate(
        methods,
        pictures,
        sigmas=list(dict.fromkeys(options.sigma)),
        seed=options.seed,
        report=_progress if sys.stderr.isatty() and not options.quiet else _quiet,
    )
    print(f"{evaluation.format_table(rows)}\n({len(pictures)} pictures in {images})")
    if options.json is not None:
        work.write_json(options.json, {"model": model, "results": rows})
    return 1 if failed else 0


def _quiet(line: str) -> None:
    del line


def _progress(line: str) -> None:
    print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
