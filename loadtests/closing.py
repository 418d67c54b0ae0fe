"""The end of a run, over all locust processes: first nothing more is published, then everything must arrive.

Each of two rounds is a question of the master to the workers, and their answers:

1. ``abide-stop``: publishers stop; when their last pushes are answered, the heads that they reached.
2. ``abide-reconcile`` with the heads of all: when the subscribers have come there, or time is up, their accounts.

A single process is its own master and worker, and asks itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_MISSING, MasterRunner, Runner, WorkerRunner

from loadtests.reconciliation import Heads, Ledger, Row, merge

POLL = 0.05  # seconds between two looks
MARGIN = 5.0  # seconds that an answer may take beyond the time that it is allowed


class Closing:
    """One process's part. ``heads``, ``rows`` and ``silent`` (workers without an answer) hold after ``close``."""

    def __init__(self, runner: Runner, ledger: Ledger, patience: float) -> None:
        self._runner, self._ledger, self._patience = runner, ledger, patience
        self._workers: set[str] = set()  # all workers that ever connected: a dead worker's accounts are lost
        self._awaited = ""  # the type of message; a late one does not answer the next question
        self._answers: dict[str, Any] = {}
        self.begin()
        if not isinstance(runner, MasterRunner):
            runner.register_message("abide-stop", self._stop, concurrent=True)
            runner.register_message("abide-reconcile", self._reconcile, concurrent=True)
        if not isinstance(runner, WorkerRunner):
            runner.register_message("abide-heads", self._take)
            runner.register_message("abide-rows", self._take)
            runner.environment.events.worker_connect.add_listener(self._connected)

    def begin(self) -> None:
        """Begin a new run."""
        self._ledger.clear()
        self.is_closed = False
        self.heads: Heads = {}
        self.rows: list[Row] = []
        self.silent: set[str] = set()

    def close(self) -> None:
        """Run both rounds, in the master or the single process; a second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        for heads in self._ask("abide-stop", None, "abide-heads").values():
            merge(self.heads, heads)
        answers = self._ask("abide-reconcile", self.heads, "abide-rows")
        for number, worker in enumerate(sorted(answers), 1):
            self.rows += [Row(f"process {number}, {name}", *figures) for name, *figures in answers[worker]]

    def _ask(self, question: str, data: object, answer: str) -> dict[str, Any]:
        self._awaited, self._answers = answer, {}
        self._runner.send_message(question, data)
        _wait(lambda: self._answers.keys() >= self._alive(), self._patience + MARGIN)
        self.silent |= self._workers - self._answers.keys()
        return self._answers

    def _alive(self) -> set[str]:
        clients = self._runner.clients.all if isinstance(self._runner, MasterRunner) else ()
        return {client.id for client in clients if client.state != STATE_MISSING}

    def _connected(self, client_id: str, **_: object) -> None:
        self._workers.add(client_id)

    def _take(self, msg: Message, **_: object) -> None:
        if msg.type == self._awaited:
            self._answers[msg.node_id] = msg.data

    def _stop(self, **_: object) -> None:
        self._ledger.closing = True
        _wait(lambda: not self._ledger.in_flight, self._patience)
        self._runner.send_message("abide-heads", self._ledger.heads)

    def _reconcile(self, msg: Message, environment: Environment) -> None:  # noqa: ARG002 — locust passes it by name
        _wait(lambda: not self._ledger.is_behind(msg.data), self._patience)
        self._runner.send_message("abide-rows", self._ledger.rows(msg.data))


def _wait(is_done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_done() and time.monotonic() < deadline:
        time.sleep(POLL)
