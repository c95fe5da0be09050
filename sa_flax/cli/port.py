"""`sa-flax port`: PyTorch weights into a directory that the other commands take as their model."""

import argparse
import os

from sa_flax.cli.options import Parser, add_words, place, whole
from sa_flax.cli.stopping import Stop
from sa_flax.errors import InputError
from sa_flax.limits import LARGEST_CHECKPOINT

COMPUTES = True


def parser() -> Parser:
    """The command's options."""
    options = Parser(
        "port CHECKPOINT --architecture NAME --output DIR",
        description="Ports PyTorch weights to a directory that denoise and evaluate take as their "
        "model. Nothing in the checkpoint is executed, and everything in it must find its place.",
        notes=(
            "Checkpoints: .safetensors; .pth, .pth.tar, .pt, .ckpt and .bin, which need PyTorch.",
        ),
        examples=(
            "port dncnn_color_blind.pth --architecture dncnn --output dncnn",
            "denoise photo.jpg --model dncnn --output clean.jpg",
        ),
    )
    options.add_argument("checkpoint", type=place, metavar="CHECKPOINT", help="the file to port")
    options.add_argument(
        "--architecture",
        required=True,
        metavar="NAME",
        help="attention_unet, dncnn, sa_resnet50, sa_resnet101 or sa_resnet152; depth, channels "
        "and other sizes are read off the weights",
    )
    options.add_argument(
        "-o",
        "--output",
        required=True,
        type=place,
        metavar="DIR",
        help="directory for config.json and model.safetensors",
    )
    options.add_argument(
        "--fold", action="store_true", help="fold DnCNN's batch norm into its convolutions"
    )
    options.add_argument(
        "--torch-file",
        type=place,
        metavar="FILE",
        help="write the weights under PyTorch's names as well, to this .pth or .safetensors",
    )
    options.add_argument(
        "--largest",
        type=whole(),
        default=LARGEST_CHECKPOINT // 2**30,
        metavar="GIB",
        help="the most memory that a checkpoint may take; told from its headers, before it is read "
        f"(default: {LARGEST_CHECKPOINT // 2**30})",
    )
    add_words(options)
    return options


def run(options: argparse.Namespace, stop: Stop) -> int:
    """Ports what `options` ask for; returns the exit code."""
    from sa_flax.porting.port import port_checkpoint

    source = options.checkpoint
    folder = source if source.is_dir() else source.parent
    ours = source.is_dir() or source.name == "model.safetensors"
    if ours and (folder / "config.json").is_file():
        raise InputError(
            f"{source} is a network already, and no checkpoint of PyTorch: give its directory to "
            f"the other commands, sa-flax denoise photo.jpg --model {folder} --output clean.jpg."
        )
    for written in (options.output / "model.safetensors", options.torch_file):
        if written is not None and os.path.realpath(written) == os.path.realpath(source):
            raise InputError(f"{written} would overwrite the checkpoint. Choose another place.")
    with stop.after("this checkpoint"):
        try:
            port_checkpoint(
                options.checkpoint,
                options.architecture,
                options.output,
                fold=options.fold,
                torch_file=options.torch_file,
                largest=options.largest * 2**30,
            )
        except OSError as error:
            raise InputError(f"{error.filename}: can't be written ({error.strerror}).") from error
    if not options.quiet:
        print(f"{options.checkpoint} -> {options.output}")
    stop.check()
    return 0
