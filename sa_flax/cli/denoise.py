"""`sa-flax denoise`: picture files through a network."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax import __version__
from sa_flax.cli import jobs, networks, work
from sa_flax.cli.options import Parser, add_words, hint_at_scale, level, whole
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sa_flax.inference.denoiser import Denoiser
    from sa_flax.pictures import Picture

COMPUTES = True
FORMATS = (
    "PNG, JPEG, TIFF, WebP, AVIF, GIF, BMP and PNM (PBM, PGM, PPM); with extra packages HEIC, "
    "JPEG XL and cameras' raw files"
)


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "denoise PATH... --output WHERE",
        description="Denoises picture files, and all pictures in folders. Originals are never "
        "touched.",
        notes=(
            f"Formats: {FORMATS}; depth, alpha, colour profile and EXIF data are kept.",
            "A result that is there already and newer than its original is not made again.",
        ),
        examples=(
            "denoise photo.jpg --output clean.jpg",
            "denoise Pictures scan.png --output denoised --model runs/quick",
        ),
    )
    add_paths(options)
    options.add_argument("--model", metavar="NAME", help=f"{networks.HELP} (default: photo)")
    options.add_argument(
        "--sigma",
        type=level,
        metavar="LEVEL",
        help="how much noise there is, 0-255, for a network that was trained to be told it",
    )
    options.add_argument(
        "--window",
        type=whole(),
        metavar="PIXELS",
        help="side of the window that attention's statistics are taken over, for pictures much "
        "larger than the training crops (default: the whole picture)",
    )
    options.add_argument(
        "--devices",
        type=whole(),
        default=1,
        metavar="N",
        help="split the rows of each picture over this many devices, for pictures that one device "
        "has too little memory for (default: 1)",
    )
    options.add_argument(
        "--compare",
        action="store_true",
        help="write NAME_compare.png beside each result: before, after, the removed noise, and an "
        "enlarged part of each",
    )
    options.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write one HTML page of all pictures before and after, with dividers to move",
    )
    add_results(options)
    add_words(options)
    return options


def add_paths(options: argparse.ArgumentParser) -> None:
    """Adds the pictures and where their results go."""
    options.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="picture files, folders of pictures (with their sub-folders), or - for standard input",
    )
    options.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="WHERE",
        help="folder for the results, which keep their names; for one picture also the file to "
        "write (clean.png), or - for standard output",
    )


def add_results(options: argparse.ArgumentParser) -> None:
    """Adds what is done with results that are there, and the report."""
    options.add_argument(
        "--overwrite", action="store_true", help="make results again that are there already"
    )
    options.add_argument(
        "--json", type=Path, metavar="FILE", help="write what became of every picture to this file"
    )


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Denoises what `options` ask for; returns the exit code."""
    for option in ("json", "report"):
        work.check_report_file(f"--{option}", getattr(options, option))
    if options.output == jobs.STREAM and (options.compare or options.report):
        raise InputError("--compare and --report need files: give --output FOLDER.")
    plan = jobs.plan(options.paths, options.output, overwrite=options.overwrite)
    hint_at_scale(options.sigma)
    denoiser = networks.load(options.model, window=options.window, devices=options.devices)
    name = options.model or networks.default()
    return work.process(
        plan,
        function_of(denoiser, name, options.sigma),
        stop=stop,
        words=work.Words(options.quiet, options.verbose, "denoised"),
        after=[_write_comparison] if options.compare else [],
        at_end=None
        if options.report is None
        else lambda done: _write_report(options.report, done, name, stop),
        json_file=options.json,
        about={"sa_flax": __version__, "model": name, "sigma": options.sigma},
    )


def _write_comparison(source: Path, target: Path, before: "Picture", after: "Picture") -> None:
    from sa_flax.inference.comparison import compare
    from sa_flax.pictures import Picture, write_picture

    del source
    sheet = Picture(compare(before.pixels, after.pixels), {})
    write_picture(target.with_name(f"{target.stem}_compare.png"), sheet)


def _write_report(page: Path, done: Sequence[tuple[str, str]], name: str, stop: Stop) -> None:
    from sa_flax.cli.report import write_page
    from sa_flax.inference.report import Entry

    entries = [
        Entry(source, Path(source), Path(target)) for source, target in done if source != "-"
    ]
    if entries:
        write_page(page, entries, f"Denoised by {name}", stop)


def function_of(denoiser: "Denoiser", name: str, sigma: float | None) -> work.Function:
    """What `denoise` and `evaluate` do to a picture: (pixels, its place) -> pixels.

    Args:
      denoiser: the network.
      name: what it is called in messages.
      sigma: noise level, 0-255, for a network that takes one.

    Raises:
      InputError: where the network needs a level and there is none, or the other way round.
    """
    if (sigma is not None) != denoiser.takes_noise_level:
        raise InputError(
            f"the network in {name} needs the noise level: give --sigma (0-255)."
            if denoiser.takes_noise_level
            else f"the network in {name} is blind: leave --sigma out."
        )
    unit = None if sigma is None else sigma / 255

    def function(pixels: "np.ndarray", index: int) -> "np.ndarray":
        del index
        return denoiser(pixels, unit)

    return function
