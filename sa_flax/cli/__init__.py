"""The command `sa-flax`: uses trained networks on picture files.

Each command is a file here. Nothing heavy is imported until a command has read its options, so
that help and a wrong word are answered at once, and Ctrl-C during the imports is heard.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    Exit codes: 0 all done; 1 some files failed (each is named, the others are done); 2 the request
    itself was wrong; 130 and 143 after Ctrl-C and SIGTERM.

    Args:
      arguments: words of the command line. By default those of this process, which then also hears
        Ctrl-C and SIGTERM in its own way (see `stopping`).
    """
    from sa_flax.cli.stopping import Stop

    stop = Stop()
    if arguments is None:
        stop.listen()
    from sa_flax.cli.commands import run

    return run(arguments, stop)
