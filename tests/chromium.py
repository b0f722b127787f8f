"""A headless Chromium driven over its DevTools protocol: just what tests of live pages need."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websocket import WebSocket, create_connection

FOUND = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Tab:
    """One page; coordinates are CSS pixels of its viewport."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket, self.sent = socket, 0

    def call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.sent:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, awaited where it is a promise."""
        asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in result, (script, result)
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 180.0) -> Any:
        """The value of an expression as soon as it is true; it may throw until then."""
        asked = f"(() => {{ try {{ return {script} }} catch (error) {{ return null }} }})()"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(asked):
                return value
            time.sleep(0.1)
        text = self.evaluate("document.body.innerText.slice(-2000)")
        raise AssertionError(f"not true within {seconds:g} s: {script}\n{text}")

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": key})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"]))


@contextmanager
def chromium(address: str, *, width: int = 1400, height: int = 1500) -> Iterator[Tab]:
    """A tab at an address, in a browser of its own that ends with the block; skips where none is installed."""
    if FOUND is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed; install the package chromium")
        pytest.skip("needs Chromium; install the package chromium")
    # The profile lies outside pytest's folder, since a browser may still write there while it ends.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--remote-debugging-port=0"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([FOUND, *options, "--remote-allow-origins=*", "about:blank"], **quiet) as browser:
            try:
                with closing(_first_page(Path(profile) / "DevToolsActivePort")) as socket:
                    tab = Tab(socket)
                    tab.call("Page.navigate", {"url": address})
                    yield tab
            finally:
                browser.terminate()
                browser.wait(20)


def _first_page(announced: Path) -> WebSocket:
    end = time.monotonic() + 120
    while not (announced.is_file() and announced.read_text().count("\n")):
        assert time.monotonic() < end, "Chromium did not start"
        time.sleep(0.1)
    port = announced.read_text().split("\n")[0]
    while True:
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        if pages:
            return create_connection(pages[0]["webSocketDebuggerUrl"], timeout=120, suppress_origin=True)
        assert time.monotonic() < end, "Chromium opened no page"
        time.sleep(0.1)
