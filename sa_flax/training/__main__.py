"""`python train.py` and `python -m sa_flax.training`: trains a denoiser and shows what it learnt.

Reads the command, then imports what trains: `--help` and a wrong option are answered without JAX.
"""

import os
import signal
import sys
from typing import Any

from sa_flax.errors import exit_code

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Runs the command; returns its exit code."""
    # Packages may take an interrupt in the middle of their import for anything.
    for number in _SIGNALS:
        signal.signal(number, _leave)
    try:
        return exit_code("train.py", _run)
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        return 130


def _leave(number: int, frame: Any) -> None:
    """Ends the process at once: there is nothing to tidy up yet."""
    del frame
    os.write(2, b"train.py: interrupted\n")
    os._exit(128 + number)


def _run() -> int:
    from sa_flax.training.command import parse_command
    from sa_flax.xla_flags import keep_compiled, tune_cpu

    command = parse_command(sys.argv[1:])
    tune_cpu()  # XLA reads its options when the first array is made
    keep_compiled()
    from sa_flax.training import processes
    from sa_flax.training.loop import train
    from sa_flax.training.mirror import mirrored

    # Until training has something to save, SIGTERM ends it as Ctrl-C does.
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    if command.distributed:
        processes.start(command.coordinator, command.num_processes, command.process_id)
    with processes.leaving_alone(), mirrored(command.output) as place:
        return train(command.config, place, resume=command.resume)


if __name__ == "__main__":
    sys.exit(main())
