"""A real browser without a window, driven over its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = f"no browser is installed ({', '.join(PROGRAMS)}): pages are not tried in one"
_SECONDS = 120.0  # for one answer, on a machine that is busy
_KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
    "Home": (36, ""),
    "End": (35, ""),
    "Tab": (9, ""),
}


def find_browser() -> str | None:
    """The program, None where none is installed."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class PageError(Exception):
    """The browser refused a command; the message is its own."""


class Browser:
    """One browser with one page; a context manager. What the page reports is in `events`."""

    def __init__(self, program: str, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.events: list[dict[str, Any]] = []
        arguments = ["--headless", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        self._process = subprocess.Popen(
            [program, *arguments, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = self._port(folder / "DevToolsActivePort")
            self._loop.run_until_complete(self._connect(port))
        except BaseException:
            self._end()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._session.close())
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._loop.close()

    def _port(self, file: Path) -> int:
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            if file.exists() and (lines := file.read_text().split("\n"))[1:]:
                return int(lines[0])
            time.sleep(0.05)
        raise RuntimeError("the browser did not start")

    async def _connect(self, port: int) -> None:
        self._session = aiohttp.ClientSession(trust_env=False)
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [each for each in await answer.json() if each["type"] == "page"]
        self._socket = await self._session.ws_connect(
            pages[0]["webSocketDebuggerUrl"], max_msg_size=0
        )

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        return self._loop.run_until_complete(asyncio.wait_for(self._call(message), _SECONDS))

    async def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        await self._socket.send_json(message)
        while True:
            answer = json.loads(await self._socket.receive_str())
            if answer.get("id") == message["id"]:
                if "error" in answer:
                    raise PageError(answer["error"]["message"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, file: Path) -> float:
        """Show a file; the seconds until its scripts have run and it is laid out."""
        self.run("window.isOld = true")
        self.events.clear()
        begun = time.monotonic()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait_for("!window.isOld && document.readyState === 'complete'")
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        return time.monotonic() - begun

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + _SECONDS
        while not self._is_so(script):
            assert time.monotonic() < until, f"never so: {script}"
            time.sleep(0.01)

    def _is_so(self, script: str) -> bool:
        try:
            return bool(self.run(script))
        except PageError as error:
            if "navigated" in str(error):  # the question reached a page that was just leaving
                return False
            raise

    def press(self, *keys: str) -> None:
        """Press keys as a person does: names of keys, or single characters."""
        for key in keys:
            # The codes of signs are those of other keys: "." would be Delete.
            code, text = _KEYS.get(key, (ord(key.upper()[0]) if key.isalnum() else 0, key))
            shared = {"key": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
            self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def emulate(self, *, width: int = 1200, media: str = "", scheme: str = "light") -> None:
        """The width of the window in pixels, what is shown to (`print`), light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        result = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(result["data"]))

    def pdf(self, file: Path) -> None:
        """What a printer is given."""
        result = self.call("Page.printToPDF", printBackground=False, paperWidth=8.27,
                           paperHeight=11.69)  # fmt: skip
        file.write_bytes(base64.b64decode(result["data"]))

    def complaints(self) -> list[str]:
        """Errors in the console, exceptions, and refusals of the page's security policy."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded":
                found.append(parameters["entry"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled":
                found.append(str(parameters["args"]))
            elif event.get("method") == "Page.javascriptDialogOpening":
                found.append(f"dialog: {parameters['message']}")
        return found

    def requests(self) -> list[str]:
        """The addresses of all that the page asked for, itself and `data:` left out."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "about:"))][1:]


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """The installed browser, with its profile in `folder`."""
    program = find_browser()
    assert program is not None, MISSING
    with Browser(program, folder) as browser:
        yield browser
