"""`sa-flax evaluate`: how good a network is, in figures."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_flax.cli import networks, work
from sa_flax.cli.denoise import function_of
from sa_flax.cli.options import Parser, add_words, hint_at_scale, level, seed
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError
from sa_flax.files import write_whole

if TYPE_CHECKING:
    import numpy as np


COMPUTES = True
_LEVELS = (15.0, 25.0, 50.0)
Rows = list[dict[str, Any]]


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "evaluate NAME --images DIR",
        description="Measures PSNR and SSIM of a network: under the published protocol (Gaussian "
        "noise, not clipped; the result clipped and rounded to 8 bits; means over the pictures), "
        "or on pairs of noisy and clean pictures, which go by their names.",
        examples=(
            "evaluate runs/quick --images kodak24 --sigma 15 25 50",
            "evaluate photo --noisy noisy --images clean --csv scores.csv",
            "evaluate photo --images polyu --noisy-suffix _real --clean-suffix _mean",
        ),
    )
    options.add_argument("model", nargs="?", metavar="NAME", help=networks.HELP)
    options.add_argument(
        "--images", required=True, type=Path, metavar="DIR", help="folder of clean pictures"
    )
    options.add_argument(
        "--noisy",
        type=Path,
        metavar="DIR",
        help="folder of their noisy versions, under the same names (default: noise is added)",
    )
    options.add_argument(
        "--noisy-suffix",
        default="",
        metavar="END",
        help="what names of noisy pictures end in before the dot, e.g. _real",
    )
    options.add_argument(
        "--clean-suffix", default="", metavar="END", help="the same of clean pictures, e.g. _mean"
    )
    options.add_argument(
        "--sigma",
        nargs="+",
        type=level,
        metavar="LEVEL",
        help="levels of the noise that is added, 0-255 (default: 15 25 50); with --noisy the level "
        "that a network is told which takes one",
    )
    options.add_argument(
        "--baseline", action="store_true", help="measure scikit-image's non-local means as well"
    )
    options.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="fixes the noise that is added (default: 0)",
    )
    options.add_argument(
        "--json", type=Path, metavar="FILE", help="write means and pictures to this file as well"
    )
    options.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a line per picture to this file as well"
    )
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Measures what `options` ask for; returns the exit code."""
    del stop  # nothing is half-done here: a signal ends it at once
    for option in ("json", "csv"):
        work.check_report_file(f"--{option}", getattr(options, option))
    if not os.path.isdir(options.images):
        raise InputError(f"no folder {options.images}. --images takes a folder of clean pictures.")
    if _holds_a_network(options.images):
        raise InputError(
            f"{options.images} holds a network; --images takes pictures: sa-flax evaluate "
            f"{options.images} --images DIR."
        )
    hint_at_scale(*(options.sigma or ()))
    pairs = options.noisy or options.noisy_suffix or options.clean_suffix
    if options.noisy is not None and not os.path.isdir(options.noisy):
        raise InputError(f"no folder {options.noisy}. --noisy takes a folder of noisy pictures.")
    measure = _on_pairs if pairs else _with_noise
    table, means, each, failed = measure(options)
    print(table)
    model = options.model or networks.default()
    if options.json is not None:
        work.write_json(options.json, {"model": model, "results": means, "pictures": each})
    if options.csv is not None:
        from sa_flax.inference.pairs import to_csv

        write_whole(options.csv, to_csv(each))
    return 1 if failed else 0


def _holds_a_network(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _with_noise(options: argparse.Namespace) -> tuple[str, Rows, Rows, int]:
    """Under the published protocol: the table, means, rows of every picture, failed files."""
    from sa_flax.inference import evaluate as evaluation
    from sa_flax.pictures import find_pictures, is_gray, read_rgb8, to_channels

    images = options.images
    files = find_pictures(images)
    if not files:
        raise InputError(f"no pictures in {images}.")
    chosen = networks.Chosen(options.model)
    pictures, used, failed = [], [], 0
    for file in files:
        try:
            picture = read_rgb8(file)
            if min(picture.shape[:2]) < evaluation.SMALLEST:
                height, width = picture.shape[:2]
                raise InputError(
                    f"{file}: is {width} x {height} pixels; SSIM is defined from "
                    f"{evaluation.SMALLEST} x {evaluation.SMALLEST}."
                )
            channels = 1 if is_gray(picture) else chosen.asked.channels
            pictures.append(to_channels(picture, channels))
            used.append(str(file.relative_to(images)))
        except Exception as error:  # whatever a reader raises
            failed += 1
            _left_out(error, file)
    if not pictures:
        raise InputError(f"none of the {len(files)} pictures in {images} can be used.")
    methods: dict[str, evaluation.Method] = {}
    if options.baseline:
        methods[evaluation.BASELINE] = evaluation.non_local_means
    methods[_label(options)] = chosen.method
    each: Rows = []
    means = evaluation.evaluate(
        methods,
        pictures,
        noises=evaluation.noises_of(None, options.sigma or _LEVELS),
        seed=options.seed,
        report=_progress if sys.stderr.isatty() and not options.quiet else _quiet,
        each=each.append,
    )
    each = [{**row, "picture": used[row["picture"]]} for row in each]
    table = f"{evaluation.format_table(means)}\n({len(pictures)} pictures in {images})"
    return table, means, each, failed


def _on_pairs(options: argparse.Namespace) -> tuple[str, Rows, Rows, int]:
    """On pairs of files: the table, means, rows of every picture, failed pairs."""
    from sa_flax.data.pairs import find_pairs
    from sa_flax.inference import evaluate as evaluation
    from sa_flax.inference import pairs
    from sa_flax.pictures import SUFFIXES

    if options.sigma is not None and len(options.sigma) > 1:
        raise InputError("--sigma with --noisy is the level that the network is told: give one.")
    noisy = options.noisy or options.images
    found, alone = find_pairs(
        noisy,
        options.images,
        noisy_names=f"*{options.noisy_suffix}",
        clean_names=f"*{options.clean_suffix}",
    )
    if not found:
        raise InputError(
            f"no pairs in {noisy} and {options.images}. Pairs have the same name; where they end "
            "differently, give --noisy-suffix and --clean-suffix."
        )
    for line in alone:
        print(f"sa-flax: left out: {line}", file=sys.stderr)
    chosen = networks.Chosen(options.model)
    methods: dict[str, pairs.Function] = {}
    if options.baseline:
        methods[evaluation.BASELINE] = _baseline
    methods[_label(options)] = _as_the_command_does(chosen, options)
    rows: Rows = []
    # Pictures that are left out have failed; other files in the folders have not.
    names = (line.partition(": ")[0] for line in alone)
    failed = sum(Path(name).suffix.lower() in SUFFIXES for name in names)
    skipped = failed
    show = _progress if sys.stderr.isatty() and not options.quiet else _quiet
    for number, pair in enumerate(found, 1):
        try:
            rows += pairs.measure(pair, methods)
        except Exception as error:  # whatever a reader or the network raises
            failed += 1
            _left_out(error, pair.noisy.path)
        show(f"picture {number} of {len(found)}")
    if not rows:
        raise InputError(f"none of the {len(found)} pairs in {noisy} can be used.")
    table = f"{pairs.format_pairs(rows)}\n({len(found) - failed + skipped} pairs of {noisy})"
    return table, pairs.means(rows), rows, failed


def _as_the_command_does(chosen: networks.Chosen, options: argparse.Namespace):
    """What `sa-flax denoise` does to the pixels of a file, so that the two can't disagree."""
    sigma = options.sigma[0] if options.sigma else None
    function = function_of(chosen, sigma)
    return lambda pixels: function(pixels, 0)


def _baseline(pixels: "np.ndarray") -> "np.ndarray":
    import numpy as np

    from sa_flax.inference.evaluate import non_local_means

    top = np.iinfo(pixels.dtype).max
    picture = pixels[..., None] if pixels.ndim == 2 else pixels
    colours = picture.shape[-1] - (picture.shape[-1] in (2, 4))
    result = non_local_means(picture[..., :colours].astype(np.float32) / top, 0.0)
    result = result.reshape(*picture.shape[:2], colours)
    return np.round(np.clip(result, 0, 1) * top).astype(pixels.dtype)


def _label(options: argparse.Namespace) -> str:
    from sa_flax.inference.evaluate import label

    return label(options.model or networks.default())


def _left_out(error: Exception, file: Path) -> None:
    text = str(error) if isinstance(error, InputError) else work.unexpected(error)
    named = text if str(file) in text else f"{file}: {text}"
    print(f"{named.removesuffix('.')}; left out.", file=sys.stderr)


def _quiet(line: str) -> None:
    del line


def _progress(line: str) -> None:
    print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
