"""How a commit gets into the streams by its deadline, whatever is down or moving; and the beat, for readiness.

Attempts go on until the deadline, as long as another one may work. An attempt whose outcome is unknown is repeated:
its token tells the server whether it has stored that commit already, on whichever connection it came. Only at the
deadline the outcome stays unknown, and is never reported as "not stored".

The beat is a write and a publication without a message, sent by the connection of commits every few seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from redis.exceptions import NoScriptError, ResponseError

from app.bus.outcomes import Outcomes
from app.bus.redis.sessions.faults import NOT_READY, explain, is_passing, is_refusal
from app.bus.redis.sessions.router import NotSentError, Request, Router
from app.bus.redis.sessions.session import RETRY_SECONDS
from app.bus.redis.streams.commit import Commit, Part, Style
from app.bus.redis.streams.lua import script, words
from app.core.errors import AbideError, OutcomeUnknownError, UnavailableError, bare
from app.core.message import Record

_REFUSED = "Redis refused this: try again in a moment"
"""The text for clients. The reason contains names and addresses, so only the log and readiness show it."""

_WAIT_SECONDS = 1.0
"""How long a commit waits for replicas."""

_LEAST_SECONDS = 0.1
"""With less time left no other attempt begins, because its outcome might stay unknown."""

_log = structlog.get_logger(__name__)


class Store:
    """Stores commits one at a time, over ``router``."""

    def __init__(self, router: Router, outcomes: Outcomes, style: Style) -> None:
        self._router = router
        self._outcomes = outcomes
        self._style = style
        self._failing = ""
        """Why the last commit or beat failed; empty since one worked."""

    async def store(self, records: Sequence[Record], deadline: float) -> Commit:
        """Store the records; return their commit with an outcome for each, at the deadline at the latest."""
        commit = Commit(records, self._style)
        try:
            with self._outcomes.under_way("commit"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._attempt(commit)
                    while commit.parts and time.monotonic() + _LEAST_SECONDS < deadline:
                        await self._attempt(commit)
        except TimeoutError:
            pass  # the answers tell how far it came
        for part in commit.parts.copy():
            if isinstance(part.request.answer, list):  # while another server had not answered
                self._answer(commit, part)
            else:
                self._close(commit, part, part.request.answer or TimeoutError())
        if not self._failing:
            self._outcomes.worked("commit")
        return commit

    async def beat(self, topic: str, text: str) -> None:
        """Write something, and publish the text to the topic. Raises :class:`UnavailableError`."""
        publish = "SPUBLISH" if self._style.is_cluster else "PUBLISH"
        request = Request(topic, words("beat", [topic], [topic, text, self._style.replicas, publish]))
        with self._outcomes.under_way("commit"):
            await self._send([request])
            if isinstance(request.answer, NoScriptError):
                await self._load([request], "beat")
                await self._send([request])
        if isinstance(request.answer, BaseException):
            reason = explain(request.answer)
            self._failed(reason, certain=is_refusal(request.answer))
            raise UnavailableError(reason) from request.answer
        if request.replicas < self._style.replicas:
            self._failed(self._unconfirmed(request.replicas), certain=True)
        else:
            self._failing = ""
            self._outcomes.worked("commit")

    async def _attempt(self, commit: Commit) -> None:
        """Send what is open once, and wait a moment if something of it has to be sent again."""
        requests = [part.request for part in commit.parts]
        await self._send(requests)
        if unloaded := [request for request in requests if isinstance(request.answer, NoScriptError)]:
            await self._load(unloaded, "store")
            return
        lost = [part for part in commit.parts.copy() if not self._answer(commit, part)]
        if lost:
            self._lost(lost)
        if commit.parts:
            await asyncio.sleep(RETRY_SECONDS)

    async def _send(self, requests: Sequence[Request]) -> None:
        wait = ("WAIT", self._style.replicas, round(_WAIT_SECONDS * 1000)) if self._style.replicas else None
        await self._router.send(requests, wait=wait)

    async def _load(self, requests: Sequence[Request], name: str) -> None:
        await self._router.send([Request(request.key, ("SCRIPT", "LOAD", script(name).text)) for request in requests])

    def _answer(self, commit: Commit, part: Part) -> bool:
        """Take the answer to an attempt; leave the part open if another one is to follow. Return False without one."""
        answer = part.request.answer
        if isinstance(answer, list):
            if part.request.replicas < self._style.replicas:
                self._close(commit, part, OutcomeUnknownError(self._unconfirmed(part.request.replicas)))
            else:
                commit.settle(part, answer, self._refused)
        elif isinstance(answer, UnavailableError) or is_passing(answer):
            self._outcomes.hint("commit", explain(answer))
        elif isinstance(answer, ResponseError):
            self._close(commit, part, answer)
        else:
            return False
        return True

    def _lost(self, parts: Sequence[Part]) -> None:
        reason = explain(parts[0].request.answer)
        _log.warning("commit_interrupted", reason=reason, messages=sum(len(part.indexes) for part in parts))
        for part in parts:
            part.interrupted = True
        self._outcomes.hint("commit", reason)
        self._outcomes.failed("commit", reason, certain=False)

    def _close(self, commit: Commit, part: Part, error: BaseException) -> None:
        """Refuse a part. After an attempt that was interrupted, a refusal does not tell its outcome."""
        hint = self._outcomes.hinted("commit") if isinstance(error, (TimeoutError, NotSentError)) else ""
        reason = f"no answer in time: {hint}" if hint else explain(error)
        if reason != self._failing:  # once, until a beat works again: there may be many publishers
            _log.error("commit_given_up", reason=reason, messages=len(part.indexes))
        self._failed(reason, certain=True)
        if isinstance(error, OutcomeUnknownError):
            commit.close(part, bare(error))
        elif part.interrupted or not (is_refusal(error) or isinstance(error, UnavailableError)):
            commit.close(part, _unknown())
        else:
            commit.close(part, bare(self._unavailable(error)))

    def _failed(self, reason: str, *, certain: bool) -> None:
        self._failing = reason
        self._outcomes.failed("commit", reason, certain=certain)

    def _unavailable(self, error: BaseException) -> UnavailableError:
        refusal = UnavailableError(NOT_READY if isinstance(error, UnavailableError) or is_passing(error) else _REFUSED)
        refusal.__cause__ = error
        return refusal

    def _refused(self, channel: str, reason: str) -> AbideError:
        _log.error("message_refused", channel=channel, reason=reason)
        return bare(UnavailableError(_REFUSED))

    def _unconfirmed(self, replicas: int) -> str:
        return (
            f"stored, but only {replicas} of {self._style.replicas} replicas have confirmed it in time: it may be lost "
            "if the primary is; with an idempotency key it is safe to send it again"
        )


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "the connection to Redis broke during the commit: the message may be stored or not; "
        "with an idempotency key it is safe to send it again"
    )
