"""A headless Chromium, driven through its own protocol: no package, no driver, no network.

Protocol: https://chromedevtools.github.io/devtools-protocol, spoken over two pipes
(`--remote-debugging-pipe`), one JSON message between zero bytes.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip

STARTER = """
import fcntl, os, sys
here, there, *command = sys.argv[1:]
pipes = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in (here, there)]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(command[0], command)
"""
"""Becomes the browser, with the pipes as files 3 and 4, where the protocol expects them."""


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page.

    Attributes
    ----------
    problems : list of str
        Errors and warnings of its scripts, and what it was not allowed to do.
    requests : list of str
        Addresses it asked for.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer = send, receive, b""
        self._number, self._session = 0, None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def _next(self, seconds: float = PATIENCE) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], max(0, end - time.monotonic()))
            piece = os.read(self._receive, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError("the browser does not answer")
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.problems.append(json.dumps(parameters["args"])[:500])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.problems.append(json.dumps(parameters["entry"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def resize(self, width: int, height: int, *, scheme: str = "light") -> None:
        """Set the window's size in pixels, and whether the user prefers light or dark."""
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self("Emulation.setEmulatedMedia", features=features)

    def open(self, file: Path, until: str) -> None:
        """Open a file and wait until an expression is true."""
        self("Page.navigate", url=file.absolute().as_uri())
        self.wait(until)

    def wait(self, expression: str, seconds: float = PATIENCE) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {seconds:g} s: {expression}")
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {json.dumps(result['exceptionDetails'])[:500]}")
        return result["result"].get("value")

    def screenshot(self, file: Path, *, whole: bool = False) -> Path:
        """Write what the window shows, or the whole page, as a PNG file."""
        made = self("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(made["data"]))
        return file


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start a browser of its own, with an empty profile in a folder; it ends with the context."""
    command = find_browser()
    assert command is not None
    to_read, send = os.pipe()
    receive, to_write = os.pipe()

    process = subprocess.Popen(
        [
            sys.executable, "-c", STARTER, str(to_read), str(to_write),
            command, *FLAGS, f"--user-data-dir={folder / 'profile'}",
        ],
        pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read)
    os.close(to_write)
    try:
        yield Page(send, receive)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
        os.close(send)
        os.close(receive)
