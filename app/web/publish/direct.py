"""Pushes that have arrived whole, answered without ASGI's events and tasks.

Only what goes well is decided here: whatever would be refused is left to the ASGI application, which finds
the same, and says why.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from weakref import WeakKeyDictionary

from app.core.errors import AbideError
from app.core.message import Record
from app.core.ports import Head, Meter, Outcome, Publisher, Reply
from app.web.edge.access import Line
from app.web.edge.cors import Cors
from app.web.edge.prefix import within
from app.web.edge.problems import ProblemResponse
from app.web.edge.request import by_name
from app.web.publish.push import ENVELOPED, NAMED, Push, Terms, answer


class _Read(NamedTuple):
    """What is read in a head once, however often it comes."""

    path: str
    """Without the root path."""
    terms: Terms
    headers: tuple[tuple[bytes, bytes], ...]
    """What the answer says to the page of the origin."""


class DirectPush:
    """The application's :class:`~app.core.ports.Direct`."""

    def __init__(self, push: Push, cors: Cors, publisher: Publisher, meter: Meter, root_path: str) -> None:
        self._push = push
        self._cors = cors
        self._publisher = publisher
        self._meter = meter
        self._root_path = root_path
        self._read: WeakKeyDictionary[Head, _Read] = WeakKeyDictionary()

    def __call__(self, head: Head, client: str | None, body: bytes, reply: Reply) -> bool:
        """Publish what is pushed, and reply when it is stored; return False for all else."""
        try:
            read = self._read.get(head) or self._learn(head)
            if read is None:
                return False
            line = Line("request", read.path, "POST", client)
            record = self._push.record(read.path, read.terms, body)
            if record is None:
                return False
            stored = self._publisher.publish([record])
        except Exception:  # noqa: BLE001 — it comes again in the application, where it is told
            return False
        stored.add_done_callback(_Waiting(self._meter, line, record, read.headers, reply))
        return True

    def _learn(self, head: Head) -> _Read | None:
        """Read a push's head; return None of another. Raises what refuses it, foreign origins among it.

        The peer is not the head's, which may come again from another one: who needs it goes through ASGI.
        """
        path = within(self._root_path, head.path)
        if path is None or (path != ENVELOPED and not path.startswith(NAMED)):
            return None
        terms = self._push.terms(by_name(head.headers), None)
        read = self._read[head] = _Read(path, terms, tuple(self._cors.added(head.headers)))
        return read


class _Waiting:
    """Who waits for one message to be stored, and then replies."""

    __slots__ = ("_headers", "_line", "_meter", "_record", "_reply")

    def __init__(
        self, meter: Meter, line: Line, record: Record, headers: tuple[tuple[bytes, bytes], ...], reply: Reply
    ) -> None:
        self._meter = meter
        self._line = line
        self._record = record
        self._headers = headers
        self._reply = reply

    def __call__(self, stored: asyncio.Future[list[Outcome]]) -> None:
        (outcome,) = stored.result()
        line = self._line
        if isinstance(outcome, AbideError):
            self._meter.refused(outcome.code)
            problem = ProblemResponse.of(outcome)
            status, body = problem.status_code, bytes(problem.body)
            headers = tuple(header for header in problem.raw_headers if header[0] != b"content-length")
        else:
            status, (headers, body) = 200, answer(line.path, self._record, outcome)
        self._reply(status, headers + self._headers, body)
        line.status, line.bytes = status, len(body)
        line.write()
