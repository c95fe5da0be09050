"""`sa-flax export`: a network for other programs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sa_flax.cli import networks
from sa_flax.cli.options import Parser, add_words, place
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError
from sa_flax.files import write_by_name

if TYPE_CHECKING:
    import numpy as np

COMPUTES = True
_FORMATS = (".onnx", ".stablehlo", ".dtmodel", ".pth", ".pt", ".safetensors")


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "export NAME --output FILE",
        description="Writes a network for other programs, of the kind that the file's name ends "
        "in, and compares what it gives on a photograph with what the network gives.",
        notes=(
            ".onnx: input noisy and output clean, (batch, channels, height, width) float32 in "
            "[0, 1], all sizes free; networks that take the noise level have the input sigma "
            "besides. Needs pip install 'sa_flax[export]'.",
            ".dtmodel: for darktable 5.6 and later (preferences, AI, import from file). Needs the "
            "same.",
            ".pth, .pt, .safetensors: for PyTorch, with the network's options. A DnCNN is known to "
            "spandrel and what is built on it; an attention U-Net is read by load() in "
            "sa_flax/porting/torch_unet.py, a file to copy. .pth and .pt need PyTorch.",
            ".stablehlo: for programs that run XLA, through jax.export.deserialize: (batch, "
            "height, width, channels), sides that are multiples of 2^(levels - 1).",
        ),
        examples=(
            "export photo --output photo.onnx",
            "export photo --output denoise-photo.dtmodel",
            "export runs/quick --output quick.stablehlo",
        ),
    )
    options.add_argument("model", metavar="NAME", help=networks.HELP)
    options.add_argument(
        "-o",
        "--output",
        required=True,
        type=place,
        metavar="FILE",
        help=f"the file to write; it ends in {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}",
    )
    for entry, what in (
        ("license", "licence of the weights"),
        ("training-data", "what it was trained on"),
        ("training-data-license", "licence of that data"),
    ):
        options.add_argument(
            f"--{entry}",
            metavar="TEXT",
            help=f"{what}, which darktable shows (default: what is noted with the network)",
        )
    options.add_argument(
        "--no-check",
        action="store_true",
        help="don't compare the file with the network (default: compare)",
    )
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Exports what `options` ask for; returns the exit code."""
    output = options.output
    ending = output.suffix.lower()
    if ending not in _FORMATS:
        raise InputError(f"{output}: give a name that ends in {', '.join(_FORMATS)}.")
    if output.is_dir():
        raise InputError(f"{output} is a folder; --output takes the name of a file.")
    if output.name == "model.safetensors" and (output.parent / "config.json").is_file():
        raise InputError(f"{output} would overwrite the network in {output.parent}.")
    said = {entry: getattr(options, entry) for entry in _SAID if getattr(options, entry)}
    if said and ending != ".dtmodel":
        raise InputError(
            f"--{next(iter(said)).replace('_', '-')} is for darktable; {ending} files have no "
            "place for it."
        )
    from sa_flax.inference import darktable, export
    from sa_flax.models.saved_use import window_of
    from sa_flax.porting.twin import write_torch_file

    if ending == ".dtmodel":
        darktable.check_name(output.stem)
    model, config, card = networks.load_with_card(options.model)
    difference = None
    with stop.after("this network"):

        def writer(temporary: Path) -> None:
            nonlocal difference
            if ending == ".stablehlo":
                export.to_stablehlo(model, temporary)
            elif ending == ".onnx":
                export.to_onnx(model, temporary)
            elif ending == ".dtmodel":
                about = darktable.card_of(config, card) | said
                _say_what_is_missing(about)
                darktable.to_dtmodel(model, temporary, name=output.stem, card=about)
            else:
                write_torch_file(model, temporary)
            if not options.no_check:
                difference = export.check(model, temporary, _photograph(model.channels))

        write_by_name(output, writer)
    if not options.quiet:
        checked = "" if difference is None else f"; results differ by {difference:.1e} at most"
        print(f"{options.model} -> {output} ({output.stat().st_size / 2**20:.1f} MiB{checked})")
    if window := window_of(config, options.model):
        print(
            f"sa-flax: {options.model} takes attention's statistics over {window[0]} x {window[1]} "
            "pixels around each pixel, the file over all that it is given: let the other program "
            "work on tiles of about that size.",
            file=sys.stderr,
        )
    stop.check()
    return 0


_SAID = ("license", "training_data", "training_data_license")


def _say_what_is_missing(card: dict[str, str]) -> None:
    missing = [f"--{entry.replace('_', '-')}" for entry in _SAID if entry not in card]
    if missing:
        print(
            f"sa-flax: nothing is noted for {', '.join(missing)}, which darktable shows to who "
            "decides whether to use the network.",
            file=sys.stderr,
        )


def _photograph(channels: int) -> "np.ndarray":
    """A part of a bundled photograph, noisy, (97, 130, channels) float32."""
    import numpy as np

    from sa_flax.data.builders import PHOTOGRAPHS
    from sa_flax.data.pipeline import to_channels
    from sa_flax.pictures import read_rgb8

    picture = read_rgb8(PHOTOGRAPHS / "budgie-perched-osprey.jpg")[100:197, 100:230]
    noise = np.random.default_rng(0).normal(0, 25 / 255, (*picture.shape[:2], channels))
    return (to_channels(picture, channels) / 255 + noise).astype(np.float32)
