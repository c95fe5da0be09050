"""Who is told when a process of a run goes, and who is not. The processes here are threads."""

import contextlib
import queue
import socket
import threading

import pytest

from sa_flax.training import lifeline as lines


class Group:
    """Threads that stand for processes: each leaves when it is told, with or without a goodbye."""

    def __init__(self, count: int, monkeypatch):
        self.lost: queue.Queue[tuple[int, str]] = queue.Queue()
        self.told: list[str] = []
        self.sockets: dict[int, socket.socket] = {}
        self._said = threading.Event()
        self._go = [threading.Event() for _ in range(count)]
        self._failing: set[int] = set()
        self._in = threading.Barrier(count + 1)
        connect = lines._connect

        def remember(host: str, port: int, greeting: str) -> socket.socket | None:
            made = connect(host, port, greeting)
            assert made is not None
            self.sockets[int(threading.current_thread().name)] = made
            return made

        monkeypatch.setattr(lines, "_connect", remember)
        self.threads = [
            threading.Thread(target=self._live, args=(i,), name=str(i), daemon=True)
            for i in range(count)
        ]
        for thread in self.threads:
            thread.start()
        self._in.wait(30)

    def _tell_all(self, text: str) -> str:
        if threading.current_thread().name == "0":
            self.told.append(text)
            self._said.set()
        assert self._said.wait(30)
        return self.told[0]

    def _live(self, index: int) -> None:
        with (
            contextlib.suppress(ZeroDivisionError),
            lines.lifeline(
                self._tell_all,
                index=index,
                host="127.0.0.1",
                lost=lambda who: self.lost.put((index, who)),
            ),
        ):
            self._in.wait(30)
            self._go[index].wait(60)
            if index in self._failing:
                raise ZeroDivisionError

    def leave(self, index: int) -> None:
        self._go[index].set()
        self.threads[index].join(30)

    def fail(self, *indices: int) -> None:
        self._failing.update(indices)
        for index in indices:
            self._go[index].set()


@pytest.fixture
def group(monkeypatch):
    monkeypatch.setattr(lines, "_GRACE", 2.0)
    made = Group(3, monkeypatch)
    yield made
    for index in range(3):
        made.leave(index)


def test_all_are_told_who_has_gone(group):
    group.sockets[2].shutdown(socket.SHUT_RDWR)  # as the system does for a process that is killed
    told = {group.lost.get(timeout=30) for _ in range(3)}
    assert told == {(0, "process 2"), (1, "process 2"), (2, "process 0")}


def test_a_goodbye_is_no_loss(group):
    for index in (1, 2, 0):
        group.leave(index)
    with pytest.raises(queue.Empty):
        group.lost.get(timeout=0.5)


@pytest.mark.parametrize("failing", [0, 1])
def test_all_are_told_when_one_fails_alone(group, failing):
    """And it waits for them, so that they end by what they have heard of it."""
    group.fail(failing)
    others = {0, 1, 2} - {failing}
    told = {group.lost.get(timeout=30) for _ in others}
    assert told == {(index, f"process {failing}") for index in others}
    assert group.threads[failing].is_alive()


def test_who_fails_with_all_others_has_not_lost_them(group, monkeypatch):
    monkeypatch.setattr(lines, "_GRACE", 20.0)
    group.fail(2, 0, 1)
    for thread in group.threads:
        thread.join(30)
        assert not thread.is_alive()
    assert group.lost.empty()


def test_strangers_are_not_counted(group):
    _, port, token = group.told[0].split()
    for words in (b"", b"GET / HTTP/1.1", f"{token[:-1]}x 1".encode()):
        with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as stranger:
            stranger.sendall(words)
    with pytest.raises(queue.Empty):
        group.lost.get(timeout=0.5)
