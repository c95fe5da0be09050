"""The table of commands; reads the first word and hands the others on."""

import argparse
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

from sa_flax import __version__
from sa_flax.cli.stopping import Stop, Stopped
from sa_flax.errors import InputError, exit_code, nearest
from sa_flax.files import discard_unfinished

# name -> (module with `add_options(parser)` and `run(options, stop)`, one line for the help)
COMMANDS = {
    "denoise": ("sa_flax.cli.denoise", "denoises picture files, and all pictures in folders"),
    "evaluate": ("sa_flax.cli.evaluate", "measures PSNR and SSIM of a network"),
    "add-noise": ("sa_flax.cli.add_noise", "adds noise to picture files, to try a denoiser on"),
    "report": ("sa_flax.cli.report", "shows results beside their originals on one HTML page"),
    "export": ("sa_flax.cli.export", "writes a network for ONNX, darktable, PyTorch, XLA"),
    "port": ("sa_flax.cli.port", "turns PyTorch weights into a network for the others"),
}

_HELP = """usage: sa-flax COMMAND ...

Uses trained networks on picture files.

commands:
{commands}

`sa-flax COMMAND --help` shows a command's options; `sa-flax --version` shows the version.

examples:
  sa-flax denoise photo.jpg --output clean.jpg
  sa-flax denoise Pictures --output denoised

Exit codes: 0 all done; 1 some files failed (each is named, the others are done); 2 the request
itself was wrong; 130 and 143 after Ctrl-C and SIGTERM.
"""
_LESS_MEMORY = "Close other programs, or give smaller pictures."


def run(arguments: Sequence[str] | None, stop: Stop) -> int:
    """Runs the command that `arguments` (of this process, where None) ask for."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    stop.tidy = discard_unfinished
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text at all
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def work() -> int:
        return _dispatch(words, stop)

    try:
        code = exit_code("sa-flax", work, less_memory=_LESS_MEMORY)
    except Stopped as stopped:
        code = 128 + stopped.number
    except KeyboardInterrupt:  # of a caller whose signals are its own
        print("sa-flax: interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if "-v" in words or "--verbose" in words:
            traceback.print_exc()
        print(f"sa-flax: {unexpected(error)}", file=sys.stderr)
        code = 1
    if stop.listening and stop.number is not None:
        sys.stdout.flush()
        os._exit(code)  # the libraries' own endings crash at times after a signal
    return code


def unexpected(error: BaseException) -> str:
    """One line about an error that no message was written for."""
    reason = " ".join(str(error).split())[:300]
    return (
        f"{type(error).__name__}{': ' if reason else ''}{reason} (not foreseen; with -v the "
        "traceback is shown)"
    )


def _dispatch(words: Sequence[str], stop: Stop) -> int:
    shown = "\n".join(f"  {name:<12}{line}" for name, (_, line) in COMMANDS.items())
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP.format(commands=shown), end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] in ("--version", "-V"):
        print(f"sa-flax {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        if os.path.exists(name):
            raise InputError(
                f"say what to do with {name}: sa-flax denoise {name} --output FOLDER. "
                f"Commands: {', '.join(COMMANDS)}."
            )
        raise InputError(
            f"no command {name!r}.{nearest(name, COMMANDS)} Commands: {', '.join(COMMANDS)}."
        )
    module = importlib.import_module(COMMANDS[name][0])
    parser = module.parser()
    try:
        options: argparse.Namespace = parser.parse(words[1:])
    except SystemExit as left:  # after --help
        return int(left.code or 0)
    if module.COMPUTES:
        from sa_flax.xla_flags import keep_compiled, tune_cpu

        tune_cpu()  # XLA reads its options when the first array is made
        keep_compiled()
    return module.run(options, stop)
