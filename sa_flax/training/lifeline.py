"""Connections that tell the processes of a run at once when one of them has died.

JAX notices a process that sends no more heartbeats after a hundred seconds, and then aborts the
others with a page of C++. Here every process keeps a connection to process 0. The operating system
closes it when either ends, however it ends; one that ends as it should takes its leave first, and
one that has failed says so, since the others may be about to end by the same error.
"""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

_WELCOME, _GOODBYE, _FAILED = b"+", b"goodbye", b"failed "
_LONGEST_WORD = 64  # bytes
_GRACE = 3.0  # seconds that the others have to end by themselves when one has failed


@contextlib.contextmanager
def lifeline(
    tell_all: Callable[[str], str],
    *,
    index: int,
    host: str | None,
    lost: Callable[[str], None],
    alone: Callable[[BaseException], bool] = lambda error: True,
) -> Iterator[None]:
    """Inside, `lost` is called in a thread when another process has gone without a goodbye.

    Where this one leaves by an exception that it has alone, the others are told, and when it is out
    they have ended, or have had the time to.

    Args:
      tell_all: gives what process 0 says to all; every process calls it, once.
      index: which process this is.
      host: of process 0; None for the name that it has for itself.
      lost: called with the name of who has gone, e.g. "process 1".
      alone: whether the others may go on in spite of an exception that this process leaves by.
    """
    server = _listen() if index == 0 else None
    port = server.getsockname()[1] if server is not None else 0
    # The token keeps out whoever else finds the port.
    name, told, token = tell_all(f"{socket.gethostname()} {port} {secrets.token_hex(16)}").split()
    connections: list[socket.socket] = []
    watchers: list[threading.Thread] = []
    over = threading.Event()

    def hear(connection: socket.socket) -> bytes:
        try:
            return connection.recv(_LONGEST_WORD)
        except OSError:
            return b""

    def watch(connection: socket.socket, who: str) -> None:
        word = hear(connection)
        if word == _GOODBYE:
            return
        if not over.is_set():
            gone = word.removeprefix(_FAILED).decode(errors="replace") or who
            # Process 0 passes on whom it has lost, before it goes itself.
            others = [other for other in connections if index == 0 and other is not connection]
            for other in others:
                with contextlib.suppress(OSError):
                    other.sendall(word or gone.encode())
            patience = _GRACE if index else 1.5 * _GRACE
            if not (word.startswith(_FAILED) and over.wait(patience)):
                lost(gone)
        # JAX's service is in process 0, and ends the others when it ends: it leaves last.
        while index == 0 and word:
            word = hear(connection)

    def start_watching(connection: socket.socket, who: str) -> None:
        watcher = threading.Thread(target=watch, args=(connection, who), daemon=True)
        watcher.start()
        watchers.append(watcher)  # several threads do this at once

    def welcome() -> None:
        while server is not None:
            try:
                connection, _ = server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=meet, args=(connection,), daemon=True).start()

    def meet(connection: socket.socket) -> None:
        given, who = "", ""
        with contextlib.suppress(OSError, ValueError):
            given, who = connection.recv(_LONGEST_WORD).decode().split()
        if given != token:
            connection.close()
            return
        connections.append(connection)
        with contextlib.suppress(OSError):  # gone already, which is seen below
            connection.sendall(_WELCOME)
        start_watching(connection, f"process {who}")

    if server is not None:
        threading.Thread(target=welcome, daemon=True).start()
    else:
        connection = _connect(host or name, int(told), f"{token} {index}")
        if connection is not None:
            connections.append(connection)
            start_watching(connection, "process 0")
    word, patience = _GOODBYE, 0.0
    try:
        yield
    except BaseException as error:
        if alone(error):
            word, patience = _FAILED + f"process {index}".encode(), 2 * _GRACE
        raise
    finally:
        over.set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(word)
        end = time.monotonic() + patience
        for watcher in watchers:
            watcher.join(max(end - time.monotonic(), 0))
        for connection in connections:
            connection.close()
        if server is not None:
            server.close()


def _listen() -> socket.socket:
    """A server at a free port, for IPv4 and, where there is one, IPv6."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _connect(host: str, port: int, greeting: str, tries: int = 10) -> socket.socket | None:
    """A connection to process 0, which knows of it; None where there can't be one.

    Behind a firewall, for example: heartbeats have to do, then.
    """
    for _ in range(tries):
        try:
            connection = socket.create_connection((host, port), timeout=5)
        except OSError:
            time.sleep(0.5)
            continue
        with contextlib.suppress(OSError):
            connection.sendall(greeting.encode())
            if connection.recv(len(_WELCOME)) == _WELCOME:
                connection.settimeout(None)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return connection
        connection.close()
    return None
