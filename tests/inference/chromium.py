"""A headless Chromium that tests drive as a person would: pointer, finger, keys, screenshots.

It is spoken to through a pair of pipes (`--remote-debugging-pipe`): messages of the DevTools
protocol, JSON with a zero byte after each.
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 120  # for one answer, on a machine that has other work


def installed() -> str | None:
    """The browser's program, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A page that is open in the browser."""

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from, self._held = to_browser, from_browser, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._from], [], [], _SECONDS)
            assert ready, "the browser does not answer"
            self._held += os.read(self._from, 2**20)
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, *, width: int, height: int, touch: bool = False) -> None:
        """Opens a file in a window of this size, without any network."""
        self.call("Network.enable")
        self.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=0,
            uploadThroughput=0,
        )
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + _SECONDS
        while self.value("document.readyState") != "complete" or self.value("location.href") == (
            "about:blank"
        ):
            assert time.monotonic() < end
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, *, pressed: bool = True) -> None:
        """mousePressed, mouseMoved or mouseReleased at a place of the window."""
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            clickCount=1,
            **({"button": "left", "buttons": 1} if pressed else {"button": "none"}),
        )

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """touchStart, touchMove or touchEnd with the fingers at these places."""
        fingers = [{"x": x, "y": y} for x, y in points]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def key(self, name: str, code: int) -> None:
        """Presses a key and lets it go."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
            )

    def screenshot(self, path: Path) -> None:
        """Writes what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def chromium(program: str, folder: Path) -> Iterator[Page]:
    """A browser of its own, with its files in `folder`; gives an empty page."""
    read_by_browser, write_to_browser = os.pipe()
    read_from_browser, write_to_us = os.pipe()
    # The browser reads from 3 and writes to 4; a shell takes no descriptor above 9.
    script = (
        "import fcntl, os, sys; "
        "read, write = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]); "
        "os.dup2(read, 3); os.dup2(write, 4); os.execv(sys.argv[3], sys.argv[3:])"
    )
    words = [
        *(sys.executable, "-S", "-c", script, str(read_by_browser), str(write_to_us), program),
        *("--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
        *("--no-first-run", "--disable-dev-shm-usage", f"--user-data-dir={folder}"),
    ]
    process = subprocess.Popen(
        words,
        pass_fds=(read_by_browser, write_to_us),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_by_browser)
    os.close(write_to_us)
    try:
        yield Page(write_to_browser, read_from_browser)
    finally:
        os.close(write_to_browser)  # it ends with the pipe
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(read_from_browser)
