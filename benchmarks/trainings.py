"""Trainings in processes of their own."""

import resource
import signal
import subprocess


def train(command: list[str]) -> tuple[int, float]:
    """Runs a training, which SIGTERM or Ctrl-C to this process stops after its step.

    Returns:
      its exit code, and the processor seconds that it took over all threads.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(signal.SIGTERM))
    code = process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return code, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
