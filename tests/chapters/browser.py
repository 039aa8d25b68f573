"""A headless Chromium, driven through its DevTools protocol over two pipes: it needs nothing but Python and the browser."""

import json
import os
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds for an answer


def executable():
    """The path of a Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Navigated(Exception):
    """The browser left the page before the command on it was done."""


class Browser:
    """One page of one browser. Use as a context."""

    def __enter__(self):
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # It reads commands from descriptor 3 and answers on 4; the shell puts the pipes there.
        command = [
            executable(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
        ]
        command += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={self.profile.name}"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "browser", *command],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        os.set_blocking(self.read, False)
        self.number, self.pending, self.events, self.session = 0, b"", [], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        os.close(self.write)
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.read)
        self.profile.cleanup()

    def send(self, method, **parameters):
        """The result of a command. What happens meanwhile goes to `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Navigated
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.pending:
            assert time.monotonic() < end, "the browser does not answer"
            try:
                self.pending += os.read(self.read, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)

    def open(self, url):
        """Load a page and wait until it is there, mathematics included."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        self.until(
            "!window.MathJax?.startup?.promise || window.mathIsDone || "
            "(window.MathJax.startup.promise.then(() => { window.mathIsDone = true }), false)"
        )

    def run(self, expression):
        """The value of a JavaScript expression on the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression):
        """Wait until the expression is true. While the browser changes pages it is not."""
        end = time.monotonic() + PATIENCE
        while not self._holds(expression):
            assert time.monotonic() < end, f"it did not come true: {expression}"
            time.sleep(0.05)

    def _holds(self, expression):
        try:
            return self.run(expression)
        except Navigated:
            return False

    def mouse(self, kind, x, y):
        """kind: mousePressed, mouseMoved or mouseReleased; x, y in CSS pixels of the window."""
        held = kind != "mouseReleased"
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=int(held), clickCount=1)

    def key(self, name):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def requests(self):
        """The addresses that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def failures(self):
        """What failed to load, and what scripts complained of."""
        failed = [e["params"]["errorText"] for e in self.events if e.get("method") == "Network.loadingFailed"]
        thrown = [
            e["params"]["exceptionDetails"]["text"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"
        ]
        told = [
            [a.get("value") for a in e["params"]["args"]]
            for e in self.events
            if e.get("method") == "Runtime.consoleAPICalled" and e["params"]["type"] == "error"
        ]
        return failed + thrown + told
