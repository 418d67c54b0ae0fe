"""A real browser, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.processes import launch
from tests.support.programs import find_or_skip

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE ::1",  # no network
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1180,860",
)
_ANNOUNCEMENT = "DevTools listening on "
_UNTIL = """
    const until = (look) => new Promise((resolve) => {
        const again = () => { const seen = look(); seen ? resolve(seen) : setTimeout(again, 20); };
        again();
    });
"""

_WITNESS = """
    window.refused = [];
    addEventListener("error", ({ message }) => refused.push(message));
    addEventListener("unhandledrejection", ({ reason }) => refused.push(String(reason)));
    addEventListener("securitypolicyviolation", ({ violatedDirective }) => refused.push(violatedDirective));
"""


class PageError(AssertionError):
    """The page threw, or what was waited for did not happen."""


class Page:
    """One tab. Its scripts may use ``until(() => …)``, which resolves to the first value that counts as true.

    ``refused`` holds what the page threw, and what its security policy refused.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.log: list[str] = []
        """The errors in the browser's log since the page was opened."""

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        for domain in ("Page", "Log", "Runtime"):
            self.command(f"{domain}.enable")
        self.log.clear()
        self.command("Page.addScriptToEvaluateOnNewDocument", source=_WITNESS)
        self.command("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def run(self, script: str, *, timeout: float = 20) -> Any:  # noqa: ANN401 — whatever the script returns
        """Run the body of an asynchronous function and return what it returns."""
        evaluated = self.command(
            "Runtime.evaluate",
            timeout=timeout,
            expression=f"(async () => {{ {_UNTIL} {script} }})()",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in evaluated:
            raise PageError(json.dumps(evaluated["exceptionDetails"], indent=1))
        return evaluated["result"].get("value")

    def until(self, expression: str, *, timeout: float = 20) -> Any:  # noqa: ANN401 — whatever it is worth
        """Wait until an expression counts as true, and return its value."""
        return self.run(f"return until(() => {expression});", timeout=timeout)

    def screenshot(self, path: Path) -> None:
        """Write what is to be seen as a PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))

    def forget(self) -> None:
        """Make its profile as empty as a new one."""
        self.command("Network.clearBrowserCache")
        self.command("Network.clearBrowserCookies")
        self.command("Storage.clearDataForOrigin", origin="*", storageTypes="all")

    def command(self, method: str, *, timeout: float = 20, **parameters: object) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            try:
                answer = json.loads(self._socket.recv(timeout=timeout))
            except TimeoutError as error:
                msg = f"no answer within {timeout} s to {method} {parameters}"
                raise PageError(msg) from error
            self._note(answer)
            if answer.get("id") == number:
                if "error" in answer:
                    msg = f"{method}: {answer['error']}"
                    raise PageError(msg)
                result: dict[str, Any] = answer["result"]
                return result

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what is an error in the browser's log."""
        told = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.log.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif event.get("method") == "Runtime.exceptionThrown":
            self.log.append(told["exceptionDetails"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.log.append(" ".join(str(part.get("value")) for part in told["args"]))


class Chromium:
    """A headless browser with a profile of its own; ends on leaving the context."""

    def __enter__(self) -> Self:
        program = find_or_skip(*_NAMES)
        self._profile = tempfile.TemporaryDirectory(prefix="abide-chromium-", ignore_cleanup_errors=True)
        command = (program, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank")
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self._process = launch(command, os.environ, stdout=nowhere, stderr=pipe, encoding="utf-8")
        self._url = self._announced()
        self._has_tab = False
        return self

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """Open a new tab, which shares nothing with others, until the context ends.

        One beside others has a profile of its own, which takes as long to make as the tab. One alone has the browser's.
        """
        if self._has_tab:
            with connect(self._url, max_size=None) as control:
                browser = Page(control)
                profile = browser.command("Target.createBrowserContext")
                with self._tab(browser, profile) as page:
                    yield page
                browser.command("Target.disposeBrowserContext", **profile)
        else:
            self._has_tab = True
            with connect(self._url, max_size=None) as control, self._tab(Page(control), {}) as page:
                yield page
                page.forget()
            self._has_tab = False

    @contextlib.contextmanager
    def _tab(self, browser: Page, profile: dict[str, Any]) -> Iterator[Page]:
        target = browser.command("Target.createTarget", url="about:blank", **profile)["targetId"]
        with connect(f"{self._url.partition('/devtools/')[0]}/devtools/page/{target}", max_size=None) as socket:
            yield Page(socket)
        browser.command("Target.closeTarget", targetId=target)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with connect(self._url) as control:
            Page(control).command("Browser.close")
        self._process.communicate(timeout=20)
        self._profile.cleanup()

    def _announced(self) -> str:
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            if line.startswith(_ANNOUNCEMENT):
                return str(line).removeprefix(_ANNOUNCEMENT).strip()
            said.append(line)
        self._process.communicate()
        return pytest.fail(f"chromium ended instead of starting: {''.join(said)}")
