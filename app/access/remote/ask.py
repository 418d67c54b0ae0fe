"""Asks the application of ``auth.ask`` whether a caller may subscribe or publish."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from enum import Enum

import structlog

from app.access.auth_settings import AskSettings
from app.access.remote.answers import Answers, Asked
from app.access.remote.outbound import FailedError, Outbound, Reply
from app.core.errors import ForbiddenError, UnavailableError
from app.core.ports import UNMETERED, Meter
from app.core.rights.policy import Answer, Forwarded, Question

MOST_AT_ONCE = 20
"""The most questions that the application has at once, from one worker."""

MOST_QUESTIONS = 1000
"""The most questions that wait for an answer, with those."""

RETRY_AFTER = 1
"""Seconds after which a caller who got no answer may try again."""

_REFUSALS = (401, 403)
_JSON = (b"content-type", b"application/json")
_LONGEST_SUBJECT = 255
_LATEST = 253_402_300_799  # the last second of the year 9999
_LOG_SECONDS = 10.0

_log = structlog.get_logger("app.access")


class _No(Enum):
    """Why there is no :class:`Answer`."""

    REFUSED = "refused"
    FAILED = "failed"


class _Flight:
    """A question that is being asked, and how many wait for its answer."""

    def __init__(self, task: asyncio.Task[Answer | _No]) -> None:
        self.task = task
        self.waiting = 0


class Asker:
    """Questions to one application. ``now`` returns seconds since the Unix epoch."""

    def __init__(self, settings: AskSettings, meter: Meter = UNMETERED, now: Callable[[], float] = time.time) -> None:
        self._forward = frozenset(settings.forward)
        self._outbound = Outbound(settings.url, timeout=settings.timeout, at_once=MOST_AT_ONCE)
        self._meter, self._now = meter, now
        self._answers = Answers(now)
        self._flights: dict[Asked, _Flight] = {}
        self._logged = -math.inf

    async def ask(self, question: Question, credentials: Forwarded) -> Answer:
        """Return the application's answer, perhaps one that it gave before to the same question of the same caller.

        Raises :class:`ForbiddenError` if it refuses, and :class:`UnavailableError` if it does neither in time.
        """
        headers = tuple([header for header in credentials.headers if header[0] in self._forward])
        asked = (credentials._replace(headers=headers), question)
        answer = self._answers.get(asked) or await self._answer(asked)
        if isinstance(answer, Answer):
            return answer
        if answer is _No.REFUSED:
            detail = f"channel {question.family!r} does not admit the caller: the application that was asked refuses"
            raise ForbiddenError(detail)
        detail = "the application that decides who is admitted gives no answer now: try again"
        raise UnavailableError(detail, retry_after=RETRY_AFTER)

    async def aclose(self) -> None:
        """End all questions, as if the application had failed, and close the connections."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._outbound.aclose()

    async def _answer(self, asked: Asked) -> Answer | _No:
        """Ask, or wait with others who ask the same. The last one who leaves ends the question."""
        flight = self._flights.get(asked)
        if flight is None:
            if len(self._flights) >= MOST_QUESTIONS:
                self._meter.limited("questions")
                return _No.FAILED
            flight = self._flights[asked] = _Flight(asyncio.create_task(self._request(asked)))
        flight.waiting += 1
        try:
            await asyncio.wait({flight.task})
        finally:
            flight.waiting -= 1
            if not flight.waiting and self._flights.get(asked) is flight:
                del self._flights[asked]
                flight.task.cancel()
        return _No.FAILED if flight.task.cancelled() else flight.task.result()

    async def _request(self, asked: Asked) -> Answer | _No:
        credentials, question = asked
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in credentials.headers]
        body = question._asdict() | {"origin": credentials.origin, "client": credentials.client}
        try:
            reply = await self._outbound.send("POST", [_JSON, *headers], json.dumps(body).encode())
            if reply.status in _REFUSALS:
                return _No.REFUSED
            answer = self._read(reply)
        except FailedError as error:
            self._fail(str(error))
            return _No.FAILED
        self._answers.keep(asked, answer)
        return answer

    def _read(self, reply: Reply) -> Answer:
        """Return what an answer says. Raises :class:`FailedError` unless it is exactly of the documented form.

        Else somebody who answers ``{"allowed": false}`` would have admitted everybody.
        """
        found = reply.json()
        if not isinstance(found, dict):
            msg = "its answer is no JSON object"
            raise FailedError(msg)
        sub, until = found.get("sub"), found.get("until")
        if found.keys() - {"sub", "until"}:
            msg = "its answer has other members than 'sub' and 'until'"
        elif "sub" in found and not (isinstance(sub, str) and 0 < len(sub) <= _LONGEST_SUBJECT and sub.isprintable()):
            msg = f"its 'sub' is no text of 1 to {_LONGEST_SUBJECT} printable characters: leave it out if there is none"
        elif "until" in found and not _is_time(until):
            msg = "its 'until' is no number of seconds since 1970: leave it out if there is none"
        elif until is not None and until <= self._now():
            msg = "its 'until' is in the past: compare the clocks"
        else:
            return Answer(sub, None if until is None else float(until))
        raise FailedError(msg)

    def _fail(self, reason: str) -> None:
        self._meter.failed("ask")
        if time.monotonic() - self._logged >= _LOG_SECONDS:
            self._logged = time.monotonic()
            _log.warning("ask_failed", reason=f"auth.ask: {reason}")


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LATEST
