"""`sa-flax add-noise`: something to try a denoiser on."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from sa_flax import __version__
from sa_flax.cli import jobs, work
from sa_flax.cli.denoise import FORMATS, add_paths, add_results
from sa_flax.cli.noises import add_noise, noises_of
from sa_flax.cli.options import Parser, add_words, hint_at_scale, level, seed
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError
from sa_flax.noise import NOISES, Gaussian, Noise

if TYPE_CHECKING:
    import numpy as np

COMPUTES = True


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "add-noise PATH... --output WHERE --sigma LEVEL",
        description="Adds noise to picture files, to try a denoiser on. The result is rounded and "
        "clipped to the file's depth, which published benchmarks do not do: `sa-flax evaluate` "
        "measures as they do.",
        notes=(
            f"Formats: {FORMATS}.",
            "Kinds of noise: " + "; ".join(f"{kind} ({noise()})" for kind, noise in NOISES.items()),
        ),
        examples=(
            "add-noise photo.png --sigma 25 --output noisy.png",
            "add-noise Pictures --noise camera --seed 1 --output noisy",
            "add-noise Pictures --noise blind --noise.sigma-range 5 30 --output noisy",
        ),
    )
    add_paths(options)
    add_noise(options, several=False)
    options.add_argument(
        "--sigma",
        type=level,
        metavar="LEVEL",
        help="standard deviation of gaussian noise, 0-255",
    )
    options.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="fixes the noise (default: 0)"
    )
    add_results(options)
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Adds noise to what `options` ask for; returns the exit code."""
    noise = _noise(options)
    hint_at_scale(options.sigma)
    work.check_report_files({"--json": options.json})
    plan = jobs.plan(
        options.paths, options.output, overwrite=options.overwrite, suffix=options.format
    )

    def noisy(pixels: "np.ndarray", index: int, page: int) -> "np.ndarray":
        from sa_flax.inference.evaluate import noisy_version
        from sa_flax.pictures import on_colours

        def draw(clean: "np.ndarray") -> "np.ndarray":
            return noisy_version(clean, noise, seed=options.seed, index=index, page=page)[0]

        return on_colours(draw, pixels)

    return work.process(
        plan,
        noisy,
        kind=work.Kind(options.format, options.quality),
        stop=stop,
        words=work.Words(options.quiet, options.verbose, "added noise to"),
        json_file=options.json,
        about={
            "sa_flax": __version__,
            "noise": dataclasses.asdict(noise),
            "seed": options.seed,
        },
    )


def _noise(options: argparse.Namespace) -> Noise:
    """The noise that is asked for. Raises InputError where a level is missing, or too many."""
    kind, sigma = options.noise or Gaussian().kind, options.sigma
    if kind != Gaussian().kind and sigma is not None:
        raise InputError(f"--sigma is the level of gaussian noise; {kind} noise draws its own.")
    if kind == Gaussian().kind and sigma is None:
        raise InputError(
            "say how much noise: --sigma 25, for example. See sa-flax add-noise --help."
        )
    return noises_of(options, [kind], [] if sigma is None else [sigma])[0]
