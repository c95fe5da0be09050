"""`sa-flax evaluate`: how good a network is, in figures."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_flax.cli import networks, work
from sa_flax.cli.denoise import function_of
from sa_flax.cli.noises import add_noise, noises_of
from sa_flax.cli.options import Parser, add_words, hint_at_scale, level, place, seed
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError
from sa_flax.files import write_whole
from sa_flax.noise import NOISES, Gaussian, Noise

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
        "with any other noise that networks are trained on, or on pairs of noisy and clean "
        "pictures, which go by their names.",
        notes=(
            "Kinds of noise: " + "; ".join(f"{kind} ({noise()})" for kind, noise in NOISES.items()),
        ),
        examples=(
            "evaluate runs/quick --images kodak24 --sigma 15 25 50",
            "evaluate photo --images kodak24 --noise gaussian camera --csv scores.csv",
            "evaluate photo --noisy noisy --images clean --csv scores.csv",
            "evaluate photo --images polyu --noisy-suffix _real --clean-suffix _mean",
        ),
    )
    options.add_argument(
        "model", nargs="?", metavar="NAME", help=f"{networks.HELP} (default: photo)"
    )
    options.add_argument(
        "--model", dest="named", metavar="NAME", help="the same, as denoise has it"
    )
    options.add_argument(
        "--images", required=True, type=place, metavar="DIR", help="folder of clean pictures"
    )
    options.add_argument(
        "--noisy",
        type=place,
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
        help="levels of the Gaussian noise that is added, 0-255 (default: 15 25 50); with --noisy "
        "the level that a network is told which takes one",
    )
    add_noise(options, several=True)
    options.add_argument(
        "--baseline", action="store_true", help="measure scikit-image's non-local means as well"
    )
    networks.add_self_ensemble(options)
    networks.add_dtype(options)
    options.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="fixes the noise that is added (default: 0)",
    )
    options.add_argument(
        "--json", type=place, metavar="FILE", help="write means and pictures to this file as well"
    )
    options.add_argument(
        "--csv", type=place, metavar="FILE", help="write a line per picture to this file as well"
    )
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Measures what `options` ask for; returns the exit code."""
    del stop  # nothing is half-done here: a signal ends it at once
    work.check_report_files({"--json": options.json, "--csv": options.csv})
    if options.named is not None:
        if options.model is not None:
            raise InputError(
                f"two networks, {options.model} and --model {options.named}: evaluate measures one."
            )
        options.model = options.named
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
    noises = _noises(options, bool(pairs))
    measured = _on_pairs(options) if pairs else _with_noise(options, noises)
    table, means, each, failed = measured
    print(table)
    model = options.model or networks.default()
    if options.json is not None:
        about = {} if pairs else {"noises": _described(noises), "seed": options.seed}
        about |= {"self_ensemble": options.self_ensemble}
        work.write_json(options.json, {"model": model, **about, "results": means, "pictures": each})
    if options.csv is not None:
        from sa_flax.inference.pairs import to_csv

        write_whole(options.csv, to_csv(each))
    return 1 if failed else 0


def _noises(options: argparse.Namespace, pairs: bool) -> dict[str, Noise]:
    """The noises that are asked for, by the names of their columns.

    Raises:
      InputError: for options that contradict each other.
    """
    kinds = list(dict.fromkeys(options.noise or [Gaussian().kind]))
    if pairs and options.noise:
        raise InputError("--noise adds noise, and pairs have theirs: leave one of them out.")
    if not pairs and options.sigma and Gaussian().kind not in kinds:
        raise InputError(
            f"--sigma is the level of gaussian noise; {', '.join(kinds)} noise draws its own. Give "
            "--noise gaussian besides to measure both."
        )
    noises = noises_of(options, kinds, list(dict.fromkeys(options.sigma or _LEVELS)))
    return {_column(noise): noise for noise in noises}


def _column(noise: Noise) -> str:
    if not isinstance(noise, Gaussian):
        return noise.kind
    return f"sigma {noise.sigma:g}{' clipped' if noise.clip else ''}"


def _described(noises: Mapping[str, Noise]) -> dict[str, Any]:
    return {title: dataclasses.asdict(noise) for title, noise in noises.items()}


def _holds_a_network(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _with_noise(
    options: argparse.Namespace, noises: Mapping[str, Noise]
) -> tuple[str, Rows, Rows, int]:
    """Noise is added: the table, means, rows of every picture, failed files."""
    from sa_flax.inference import evaluate as evaluation
    from sa_flax.pictures import find_pictures, is_gray, read_rgb8, to_channels

    images = options.images
    files = find_pictures(images)
    if not files:
        raise InputError(f"no pictures in {images}.")
    chosen = networks.Chosen(options.model, dtype=options.dtype)
    untold = [noise.kind for noise in noises.values() if not noise.has_level]
    if chosen.asked.takes_noise_level and untold:
        raise InputError(
            f"the network in {chosen.name} needs the noise level, and {', '.join(untold)} noise "
            "has none. Take gaussian or blind noise, or a blind network."
        )
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
    methods[_label(options)] = partial(chosen.method, self_ensemble=options.self_ensemble)
    each: Rows = []
    means = evaluation.evaluate(
        methods,
        pictures,
        noises=noises,
        seed=options.seed,
        report=_progress if sys.stderr.isatty() and not options.quiet else _quiet,
        each=each.append,
    )
    each = [{**row, "picture": used[row["picture"]]} for row in each]
    tables = [evaluation.format_table(means), f"({len(pictures)} pictures in {images})"]
    if options.verbose:
        tables = [_each_table(each, title) for title in noises] + tables
    table = "\n".join(tables)
    return table, means, each, failed


def _each_table(rows: Rows, title: str) -> str:
    from sa_flax.inference.pairs import format_pairs

    return f"{title}\n{format_pairs([row for row in rows if row['noise'] == title])}\n"


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
        why = f" {len(alone)} left out, the first: {alone[0].rstrip('.')}." if alone else ""
        raise InputError(
            f"no pairs in {noisy} and {options.images} that can be used.{why} Pairs have the same "
            "name; where they end differently, give --noisy-suffix and --clean-suffix."
        )
    for line in alone:
        print(f"sa-flax: left out: {line}", file=sys.stderr)
    chosen = networks.Chosen(options.model, dtype=options.dtype)
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
    function = function_of(chosen, sigma, self_ensemble=options.self_ensemble)
    return lambda pixels: function(pixels, 0, 0)


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
