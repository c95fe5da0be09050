"""`sa-flax add-noise`: something to try a denoiser on."""

import argparse
from typing import TYPE_CHECKING

from sa_flax import __version__
from sa_flax.cli import jobs, work
from sa_flax.cli.denoise import FORMATS, add_paths, add_results
from sa_flax.cli.options import Parser, add_words, hint_at_scale, level, seed
from sa_flax.cli.stopping import Stop

if TYPE_CHECKING:
    import numpy as np

COMPUTES = False


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "add-noise PATH... --output WHERE --sigma LEVEL",
        description="Adds Gaussian noise to picture files, to try a denoiser on. The result is "
        "rounded and clipped to the file's depth, which published benchmarks do not do: `sa-flax "
        "evaluate` measures as they do.",
        notes=(f"Formats: {FORMATS}.",),
        examples=(
            "add-noise photo.png --sigma 25 --output noisy.png",
            "add-noise Pictures --sigma 50 --seed 1 --output noisy",
        ),
    )
    add_paths(options)
    options.add_argument(
        "--sigma",
        required=True,
        type=level,
        metavar="LEVEL",
        help="standard deviation of the noise, 0-255",
    )
    options.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="fixes the noise (default: 0)"
    )
    add_results(options)
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Adds noise to what `options` ask for; returns the exit code."""
    import numpy as np

    from sa_flax.pictures import on_colours

    hint_at_scale(options.sigma)

    def noisy(pixels: "np.ndarray", index: int) -> "np.ndarray":
        generator = np.random.default_rng([options.seed, index])

        def add(colours: "np.ndarray") -> "np.ndarray":
            return colours + generator.normal(0, options.sigma / 255, colours.shape)

        return on_colours(add, pixels)

    work.check_report_file("--json", options.json)
    return work.process(
        jobs.plan(
            options.paths, options.output, overwrite=options.overwrite, suffix=options.format
        ),
        noisy,
        kind=work.Kind(options.format, options.quality),
        stop=stop,
        words=work.Words(options.quiet, options.verbose, "added noise to"),
        json_file=options.json,
        about={"sa_flax": __version__, "sigma": options.sigma, "seed": options.seed},
    )
