"""`sa-flax export`: a network for other programs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax.cli import networks
from sa_flax.cli.options import Parser, add_words
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError
from sa_flax.files import discard_unfinished, write_by_name

if TYPE_CHECKING:
    import numpy as np

COMPUTES = True
_FORMATS = (".onnx", ".stablehlo")


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "export NAME --output FILE",
        description="Writes a network for other programs: as ONNX, with free height and width, or "
        "as StableHLO for programs that run XLA.",
        notes=(
            "ONNX: input noisy and output clean, (batch, channels, height, width) float32 in "
            "[0, 1]; networks that take the noise level have the input sigma besides. The file is "
            "compared with the network on a photograph. Needs pip install 'sa_flax[export]'.",
            "StableHLO: (batch, height, width, channels), sides that are multiples of 2^(levels - "
            "1); for jax.export.deserialize.",
        ),
        examples=(
            "export photo --output photo.onnx",
            "export runs/quick --output quick.stablehlo",
        ),
    )
    options.add_argument("model", metavar="NAME", help=networks.HELP)
    options.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="the file to write; it ends in .onnx or .stablehlo",
    )
    options.add_argument(
        "--no-check",
        action="store_true",
        help="don't compare the ONNX file with the network (default: compare)",
    )
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Exports what `options` ask for; returns the exit code."""
    output = options.output
    if output.suffix.lower() not in _FORMATS:
        raise InputError(f"{output}: give a name that ends in {' or '.join(_FORMATS)}.")
    if output.is_dir():
        raise InputError(f"{output} is a folder; --output takes the name of a file.")
    from sa_flax.inference import export

    model = networks.load_model(options.model)
    said = ""
    stop.tidy = discard_unfinished
    with stop.after("this network"):

        def writer(temporary: Path) -> None:
            nonlocal said
            if output.suffix.lower() == ".stablehlo":
                export.to_stablehlo(model, temporary)
                return
            export.to_onnx(model, temporary)
            if not options.no_check:
                difference = export.check_onnx(model, temporary, _photograph(model.channels))
                said = f"; results differ by {difference:.1e} at most"

        write_by_name(output, writer)
    if not options.quiet:
        print(f"{options.model} -> {output} ({output.stat().st_size / 2**20:.1f} MiB{said})")
    stop.check()
    return 0


def _photograph(channels: int) -> "np.ndarray":
    """A part of a bundled photograph, noisy, (97, 130, channels) float32."""
    import numpy as np

    from sa_flax.data.builders import PHOTOGRAPHS
    from sa_flax.data.pipeline import to_channels
    from sa_flax.pictures import read_rgb8

    picture = read_rgb8(PHOTOGRAPHS / "budgie-perched-osprey.jpg")[100:197, 100:230]
    noise = np.random.default_rng(0).normal(0, 25 / 255, (*picture.shape[:2], channels))
    return (to_channels(picture, channels) / 255 + noise).astype(np.float32)
