"""Ctrl-C and SIGTERM: heard at any moment, acted upon where nothing is left half-done.

Python raises KeyboardInterrupt wherever it happens to be, also inside callbacks that swallow it and
inside libraries that do not survive it. Here a thread hears of the signal instead, also while
compiled code runs. It ends the process at once where nothing is at hand, and else notes the signal
for whoever is at work; a second signal ends the process whatever is at hand.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(BaseException):
    """Leaves work at hand after a signal. Like KeyboardInterrupt, no `except Exception` holds it.

    Attributes:
      number: the signal's.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stop:
    """Whether this process was asked to stop.

    Attributes:
      number: the signal that asked for it; None as long as none did.
      tidy: called before the process ends at once, to remove what is half-written.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.tidy: Callable[[], None] = lambda: None
        self.listening = False
        self._at_hand: str | None = None
        self._lock = threading.Lock()

    def listen(self) -> None:
        """From now on hears the process's signals; those that it was started to ignore stay so."""
        if threading.current_thread() is not threading.main_thread():
            return
        heard, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # without one, there would be no waking
        threading.Thread(target=self._watch, args=(heard,), daemon=True).start()
        self.listening = True

    def _watch(self, heard: socket.socket) -> None:
        while True:
            for number in heard.recv(64):
                self.hear(number)

    def hear(self, number: int) -> None:
        """What a signal does: ends the process, or waits for the end of what is at hand."""
        with self._lock:
            if self._at_hand is not None and self.number is None:
                self.number = number
                _say(f"stopping after {self._at_hand}; once more ends at once.")
                return
            self.tidy()
            _say("interrupted." if self.number is None else "ended at once.")
            os._exit(128 + number)  # nothing of the libraries' own endings, which crash at times

    @contextlib.contextmanager
    def after(self, what: str) -> Iterator[None]:
        """Inside, a first signal waits: the process ends after `what`, e.g. "this picture".

        Raises:
          Stopped: where the signal has come already.
        """
        self.check()
        with self._lock:
            self._at_hand = what
        try:
            yield
        finally:
            with self._lock:
                self._at_hand = None

    def check(self) -> None:
        """Raises Stopped where a signal has come: for places where long work may be left."""
        if self.number is not None:
            raise Stopped(self.number)


def _say(line: str) -> None:
    # Not through sys.stderr, whose lock the main thread may hold.
    with contextlib.suppress(OSError):
        newline = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""
        os.write(2, f"{newline}sa-flax: {line}\n".encode())
