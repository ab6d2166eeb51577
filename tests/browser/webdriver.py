"""A headless Chromium, driven over the W3C WebDriver protocol; nothing but the two programs."""

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
KEYS = {"tab": "\ue004", "right": "\ue014", "space": " "}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# The machine's proxy has no business between this process and its own driver.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def missing():
    """Returns what must be installed before a browser can be started, or None."""
    lacks = [] if _chromium() else ["Chromium"]
    lacks += [] if shutil.which("chromedriver") else ["chromedriver"]
    if not lacks:
        return None
    return f"{' and '.join(lacks)} not found. On Debian: apt-get install chromium chromium-driver"


def _chromium():
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


class Browser:
    """A window of a browser of its own, with an empty profile; a context manager."""

    def __enter__(self):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def _start(self):
        self._session = ""
        for line in self._driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self._root = f"http://127.0.0.1:{found[1]}/session"
                break
        else:
            raise RuntimeError("chromedriver has ended before it was ready.")
        arguments = [*ARGUMENTS, f"--user-data-dir={self._profile.name}"]
        options = {"binary": _chromium(), "args": arguments}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        answer = self._call("", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/{answer['sessionId']}"

    def __exit__(self, *error):
        try:
            self._call("", method="DELETE")
        finally:
            self._end()

    def _end(self):
        self._driver.terminate()
        self._driver.wait()
        self._driver.stdout.close()
        self._profile.cleanup()

    def _call(self, path, data=None, *, method="POST"):
        request = urllib.request.Request(
            f"{self._root}{self._session}{path}",
            data=json.dumps(data or {}).encode() if method == "POST" else None,
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with _opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        self._call("/url", {"url": f"file://{path}"})

    def show_as(self, *, width, height=800, dark=False):
        """Sets the size of the page in CSS pixels, and the colour scheme that the user prefers."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])

    def _command(self, name, **values):
        return self._call("/goog/cdp/execute", {"cmd": name, "params": values})

    def ask(self, script):
        """Returns what a script's `return` gives."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def click(self, selector):
        """Clicks with the mouse in the middle of an element, which must be in sight there."""
        found = self._call("/element", {"using": "css selector", "value": selector})
        self._call(f"/element/{found[_ELEMENT]}/click")

    def press(self, key):
        """Presses and releases a key on whatever has the focus."""
        steps = [{"type": kind, "value": KEYS[key]} for kind in ("keyDown", "keyUp")]
        self._call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})

    def screenshot(self):
        """Returns a PNG of the whole page, as bytes."""
        picture = self._command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(picture["data"])


if __name__ == "__main__":
    if fault := missing():
        sys.exit(f"error: {fault}")
