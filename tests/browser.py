"""Headless Chromium, driven through its DevTools pipe: real events of a pointer, and pictures."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60


class Browser:
    """One page of a Chromium with a profile in `folder`; a context manager."""

    def __init__(self, folder, width: int = 1280, height: int = 900, mobile: bool = False):
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        flags += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={folder}"]
        shuffle = f"exec 3<&{to_child} 4>&{from_child}; exec {CHROMIUM} {' '.join(flags)}"
        self._process = subprocess.Popen(
            ["bash", "-c", shuffle],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child), os.close(from_child)
        self._numbers, self._buffer, self._session, self.errors = itertools.count(1), b"", None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **dict(width=width, height=height, deviceScaleFactor=1, mobile=mobile),
        )

    def call(self, method: str, **parameters: Any) -> dict:
        """A DevTools command and its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(answer["params"])

    def js(self, expression: str) -> Any:
        """The value of an expression in the page, promises awaited."""
        options = dict(expression=expression, returnByValue=True, awaitPromise=True)
        return self.call("Runtime.evaluate", **options)["result"].get("value")

    def until(self, expression: str) -> None:
        """Waits until an expression holds."""
        end = time.monotonic() + PATIENCE
        while not self.js(expression):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.05)

    def drag(self, *points: tuple[float, float]) -> None:
        """Presses at the first point of the window, moves over the others, releases."""
        (x, y), *rest = points
        self._mouse("mousePressed", x, y)
        for x, y in rest:
            self._mouse("mouseMoved", x, y)
        self._mouse("mouseReleased", x, y)

    def click(self, selector: str) -> None:
        """Clicks into the middle of an element."""
        box = self.box(selector)
        self.drag((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))

    def box(self, selector: str) -> dict[str, float]:
        """Where an element lies in the window."""
        return self.js(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")

    def picture(self, path) -> None:
        """A PNG of the window."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def _mouse(self, kind: str, x: float, y: float) -> None:
        options = dict(type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        self.call("Input.dispatchMouseEvent", **options)

    def _message(self) -> dict:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 16)
            assert data, "Chromium has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        os.close(self._write)  # the pipe's end is Chromium's
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
