"""`sa-flax denoise`: picture files through a network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sa_flax import __version__
from sa_flax.cli import jobs, networks, work
from sa_flax.cli.options import Parser, add_words, ending, hint_at_scale, level, place, share, whole
from sa_flax.cli.sheets import Sheets
from sa_flax.cli.stopping import Stop
from sa_flax.cli.written import NOTES
from sa_flax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

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
            "A result that is there already and newer than its original is not made again. What "
            "is older is replaced where it is a result by the notes in its folder, "
            f"{NOTES}; else it may be a picture of yours, and --overwrite replaces it.",
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
        "larger than the training crops (default: the network's own, or the whole picture)",
    )
    options.add_argument(
        "--devices",
        type=whole(),
        default=1,
        metavar="N",
        help="split the rows of each picture over this many devices, for pictures that one device "
        "has too little memory for (default: 1)",
    )
    networks.add_dtype(options)
    options.add_argument(
        "--memory",
        metavar="SIZE",
        help="how much memory to take, e.g. 2GB: large pictures go through in tiles (default: a "
        "share of what is free)",
    )
    options.add_argument(
        "--strength",
        type=share,
        default=1.0,
        metavar="0..1",
        help="how much of what the network takes away is taken away (default: 1)",
    )
    options.add_argument(
        "--keep-detail",
        type=share,
        metavar="0..1",
        help="how much of the texture that was taken for noise to put back (default: what the "
        "network was saved with: photo 1, others 0)",
    )
    options.add_argument(
        "--declip",
        action=argparse.BooleanOptionalAction,
        help="mend black and white, which are off where noise was clipped (default: what the "
        "network was saved with: photo does, others do not)",
    )
    options.add_argument(
        "--no-specialists",
        action="store_true",
        help="keep pictures with white noise, which photo hands to color or gray: they know it "
        "better",
    )
    networks.add_self_ensemble(options)
    options.add_argument(
        "--estimate-noise",
        action="store_true",
        help="say how much noise each picture has, by the picture alone, and of what kind",
    )
    options.add_argument(
        "--compare",
        action="store_true",
        help="write NAME_compare.png beside each result: before, after, the removed noise, and an "
        "enlarged part of each",
    )
    options.add_argument(
        "--report",
        type=place,
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
        type=place,
        metavar="PATH",
        help="picture files, folders of pictures (with their sub-folders), or - for standard input",
    )
    options.add_argument(
        "-o",
        "--output",
        required=True,
        type=place,
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
        "--json", type=place, metavar="FILE", help="write what became of every picture to this file"
    )
    options.add_argument(
        "--format",
        type=ending,
        metavar="END",
        help="write all results as this kind, e.g. png (default: as their originals)",
    )
    options.add_argument(
        "--quality",
        type=whole(1, 100),
        metavar="1..100",
        help="of results in formats that lose something (default: JPEG as it came)",
    )


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Denoises what `options` ask for; returns the exit code."""
    work.check_report_files({"--json": options.json, "--report": options.report})
    if options.output == jobs.STREAM and (options.compare or options.report):
        raise InputError("--compare and --report need files: give --output FOLDER.")
    plan = jobs.plan(
        options.paths, options.output, overwrite=options.overwrite, suffix=options.format
    )
    sheets = Sheets(plan, overwrite=options.overwrite) if options.compare else None
    hint_at_scale(options.sigma)
    chosen = networks.Chosen(
        options.model,
        dtype=options.dtype,
        window=options.window,
        devices=options.devices,
        memory=options.memory,
        specialists=not options.no_specialists,
    )
    if options.window is not None:
        chosen.check_window()
    if not options.quiet and options.output != jobs.STREAM:
        print(f"network: {chosen.name}{f', in {chosen.dtype}' if chosen.dtype else ''}", flush=True)

    def at_end(there: Sequence[tuple[str, str]]) -> None:
        try:
            if sheets is not None:
                sheets.complete(there, stop)
        finally:
            if options.report is not None:
                _write_report(options.report, there, chosen.name, stop)

    return work.process(
        plan if sheets is None else sheets.plan,
        function_of(
            chosen,
            options.sigma,
            stop=stop,
            estimate=_where_to_tell(options) if options.estimate_noise else None,
            strength=options.strength,
            keep_detail=options.keep_detail,
            declip=options.declip,
            self_ensemble=options.self_ensemble,
        ),
        kind=work.Kind(options.format, options.quality),
        stop=stop,
        words=work.Words(options.quiet, options.verbose, "denoised"),
        after=[] if sheets is None else [sheets.write],
        at_end=at_end,
        instead=lambda: chosen.instead,
        json_file=options.json,
        about={
            "sa_flax": __version__,
            "model": chosen.name,
            "dtype": chosen.dtype,
            "sigma": options.sigma,
        },
    )


def _write_report(page: Path, done: Sequence[tuple[str, str]], name: str, stop: Stop) -> None:
    from sa_flax.cli.report import write_page
    from sa_flax.inference.report import Entry

    entries = [
        Entry(source, Path(source), Path(target)) for source, target in done if source != "-"
    ]
    if entries:
        write_page(page, entries, f"Denoised by {name}", stop)


def function_of(
    chosen: networks.Chosen,
    sigma: float | None,
    *,
    stop: Stop | None = None,
    estimate: TextIO | None = None,
    **finish: Any,
) -> work.Function:
    """What `denoise` and `evaluate` do to a picture: (pixels, its place, its page) -> pixels.

    Args:
      chosen: the network.
      sigma: noise level, 0-255, for a network that takes one.
      stop: asked between the tiles of a picture.
      estimate: gets a line that says how much noise there is.
      **finish: strength, keep_detail, declip and self_ensemble of `Denoiser.__call__`.

    Raises:
      InputError: where the network needs a level and there is none, or the other way round.
    """
    if (sigma is not None) != chosen.asked.takes_noise_level:
        raise InputError(
            f"the network in {chosen.name} needs the noise level: give --sigma (0-255)."
            if chosen.asked.takes_noise_level
            else f"the network in {chosen.name} is blind: leave --sigma out."
        )

    def report(done: int, total: int) -> None:
        if stop is not None and done < total:
            stop.check()

    def function(pixels: "np.ndarray", index: int = 0, page: int = 0) -> "np.ndarray":
        del index, page
        from sa_flax.pictures import on_colours

        denoiser = chosen.of(pixels)
        unit = sigma / 255 if sigma is not None and denoiser.takes_noise_level else None

        def denoise(picture: "np.ndarray") -> "np.ndarray":
            return denoiser(picture, unit, report=report, handed_to=chosen.note, **finish)

        if estimate is not None:
            print(_noise_of(pixels), file=estimate, flush=True)
        if pixels.dtype.name in ("uint8", "uint16"):
            return denoise(pixels)
        return on_colours(denoise, pixels)

    return function


def _where_to_tell(options: argparse.Namespace) -> TextIO:
    """Standard output, unless the picture goes there."""
    return sys.stderr if options.output == jobs.STREAM else sys.stdout


def _noise_of(pixels: "np.ndarray") -> str:
    """A line about the noise of a picture, by the picture alone."""
    from sa_flax.inference.noise_estimate import estimate_noise
    from sa_flax.pictures import split_alpha, to_unit

    unit, _ = to_unit(split_alpha(pixels[..., None] if pixels.ndim == 2 else pixels)[0])
    if min(unit.shape[:2]) < 16:
        return "noise: the picture is too small to tell"
    noise = estimate_noise(unit)
    levels = " / ".join(f"{255 * sigma:.1f}" for sigma in noise.sigma)
    kind = "looks white" if noise.white else "neighbouring pixels go together"
    return f"noise: sigma {levels} of 255 by channel; {kind}"
