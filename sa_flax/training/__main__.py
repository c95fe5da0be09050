"""`python train.py` and `python -m sa_flax.training`: trains a denoiser and shows what it learnt.

Reads the command, then imports what trains: `--help` and a wrong option are answered without JAX.
"""

import signal
import sys

from sa_flax.errors import exit_code
from sa_flax.training.command import parse_command
from sa_flax.xla_flags import keep_compiled, tune_cpu


def main() -> int:
    """Runs the command; returns its exit code."""
    # Until training has something to save, SIGTERM ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return exit_code("train.py", _run)
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        return 130


def _run() -> int:
    command = parse_command(sys.argv[1:])
    tune_cpu()  # XLA reads its options when the first array is made
    keep_compiled()
    from sa_flax.training import processes
    from sa_flax.training.loop import train

    if command.distributed:
        processes.start(command.coordinator, command.num_processes, command.process_id)
    return train(command.config, command.output, resume=command.resume)


if __name__ == "__main__":
    sys.exit(main())
