"""Pages of ``examples/llm`` that are reloaded, and whose servers are killed, while they show runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator

from examples.llm.model import text_of
from tests.support.chromium import Chromium, Page, PageError
from tests.support.example import Example

RELOADS = "reloads"
VICTIMS = {
    "the server": "-m app serve",
    "the writer": "-m examples.llm.writer",
    "the web server": "-m examples.llm.pages",
    "PostgreSQL": "/postgres -D",
}
"""What may be killed, and the words of its command; of the server, the master or its worker."""

OFTEN = [RELOADS, RELOADS, RELOADS, "the server", "the server", *VICTIMS]
"""What is done, as often as it is named here."""

LONGEST = 240.0
"""Seconds within which a run is whole, however much is killed."""


class Tab:
    """A tab that shows a run."""

    def __init__(self, page: Page, example: Example, run: str) -> None:
        self._page, self._example = page, example
        self.show(run)

    def show(self, run: str) -> None:
        """Show a new run."""
        self._run, self._began, self.length = run, time.monotonic(), 0
        self._url = f"{self._example.url}/?run={run}"
        self.load()

    def load(self) -> None:
        """Load the page, again and again while its web server is away."""
        while True:
            with contextlib.suppress(PageError):
                self._page.command("Page.navigate", url=self._url)
                if self._page.run(
                    f"return location.href === {json.dumps(self._url)} && document.readyState !== 'loading'"
                ):
                    return
            time.sleep(0.05)

    def is_whole(self) -> bool:
        """Tell whether the run is whole; raise AssertionError if it is not what was published.

        ``length`` is then how much of it is shown.
        """
        shown = "[document.body.dataset.state, document.querySelector('#text').textContent]"
        state, text = self._page.run(f"return {shown}")
        self.length, expected = len(text), text_of(self._run)
        if state == "done":
            assert text == expected, f"run {self._run}: {text!r} is not {expected!r}"
        else:
            assert expected.startswith(text), f"run {self._run} is {state}: {text!r} is no beginning of {expected!r}"
            assert time.monotonic() - self._began < LONGEST, f"run {self._run} is {state} for too long"
        return bool(state == "done")


@contextlib.contextmanager
def tabs(chromium: Chromium, example: Example, runs: list[str]) -> Iterator[list[Tab]]:
    """Open a tab for each run."""
    with contextlib.ExitStack() as stack:
        yield [Tab(stack.enter_context(chromium.page()), example, run) for run in runs]


def kill(example: Example, victim: str, choice: random.Random) -> None:
    """Kill one process at once, if it is there."""
    if pids := example.pids(VICTIMS[victim]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(choice.choice(pids), signal.SIGKILL)


def look(shown: list[Tab]) -> list[Tab]:
    """Look at all tabs, and return those whose run is whole."""
    return [tab for tab in shown if tab.is_whole()]


def disturb(example: Example, shown: list[Tab], *, times: int, pause: float, choice: random.Random) -> Counter[str]:
    """Reload pages and kill processes at random, so many times, and return how often what was done.

    Each time some page has to go on before the next: a slow machine takes seconds to start what was killed. A tab whose
    run is whole shows another one. All runs are whole in the end, and are counted as ``runs``.
    """
    done: Counter[str] = Counter()
    for _ in range(times):
        what = choice.choice(OFTEN)
        if what == RELOADS:
            choice.choice(shown).load()
        else:
            kill(example, what, choice)
        done[what] += 1
        time.sleep(pause * choice.uniform(0, 2))
        whole, lengths = look(shown), [tab.length for tab in shown]
        while not whole and lengths == [tab.length for tab in shown]:
            time.sleep(0.05)
            whole = look(shown)
        for tab in whole:
            done["runs"] += 1
            tab.show(f"{choice.getrandbits(64):x}")
    for tab in shown:
        while not tab.is_whole():
            time.sleep(0.1)
        done["runs"] += 1
    return done
