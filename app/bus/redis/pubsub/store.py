"""How a batch gets published by its deadline, whatever is down; and the beat, for readiness.

Attempts go on until the deadline, as long as nothing of the batch was sent, or the server has refused it. If the answer
to an attempt is lost, it is unknown what became of it. A record with a key is then sent again, because it is published
once, however often it comes. For the others the outcome stays unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.exceptions import NoScriptError, ResponseError

from app.bus.outcomes import Outcomes
from app.bus.redis.pubsub.publications import PUBLISH, REFUSED, TELL, TOPICS, Call, text_to
from app.bus.redis.sessions.faults import LOST, NOT_READY, explain, is_passing, is_refusal
from app.bus.redis.sessions.router import Request, Router
from app.bus.redis.sessions.session import RETRY_SECONDS, Word
from app.core.errors import AbideError, OutcomeUnknownError, UnavailableError, bare
from app.core.message import Record
from app.core.ports import Outcome

_UNKNOWN = (
    "the connection to Redis broke during the publish: the message may be published or not; "
    "with an idempotency key it is safe to send it again"
)

_log = structlog.get_logger(__name__)


class Store:
    """Publishes one batch at a time over ``router``."""

    def __init__(self, router: Router, outcomes: Outcomes, database: int) -> None:
        self._router = router
        self._outcomes = outcomes
        self._database = database
        self._failing = ""
        """Why the last batch or beat failed; empty since one worked."""

    async def publish(self, records: Sequence[Record], deadline: float) -> list[Outcome]:
        """Publish the records; return an outcome for each, at the deadline at the latest."""
        batch = _Batch(records)
        try:
            with self._outcomes.under_way("commit"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    while batch.open:
                        await self._attempt(batch)
        except TimeoutError:
            self._close(batch, batch.last or TimeoutError())
        else:
            if not self._failing:
                self._outcomes.worked("commit")
        return [batch.outcomes[index] for index in range(len(records))]

    async def beat(self, topic: str, text: str) -> None:
        """Publish a text to a topic. Raises :class:`UnavailableError`."""
        with self._outcomes.under_way("commit"):
            answer = await self._send(text_to(topic, text))
        if isinstance(answer, BaseException):
            reason = explain(answer)
            self._failed(reason, certain=is_refusal(answer))
            raise UnavailableError(reason) from answer
        self._failing = ""
        self._outcomes.worked("commit")

    async def _attempt(self, batch: _Batch) -> None:
        """Send what is open once, and wait a moment if something of it has to be sent again."""
        call = Call(batch.records, batch.open, self._database)
        answer = await self._send(call.words, batch)
        if isinstance(answer, list):
            batch.settle(call.outcomes(answer))
            return
        batch.last = answer
        if isinstance(answer, UnavailableError) or is_passing(answer):
            self._outcomes.hint("commit", explain(answer))
        elif isinstance(answer, ResponseError):
            self._close(batch, answer)
            return
        else:
            self._lost(batch, answer)
        if batch.open:
            await asyncio.sleep(RETRY_SECONDS)

    async def _send(self, words: Sequence[Word], batch: _Batch | None = None) -> Any:  # noqa: ANN401 — an answer or an error
        """Return the answer to a call; load our functions first if the server does not know them."""
        request = Request(TOPICS, words)
        if batch is not None:
            batch.request = request
        await self._router.send([request])
        if isinstance(request.answer, NoScriptError):
            await self._router.send([Request(TOPICS, ("SCRIPT", "LOAD", script)) for script in (PUBLISH, TELL)])
            await self._router.send([request])
        return request.answer

    def _lost(self, batch: _Batch, error: BaseException) -> None:
        """Leave open only what may be sent again."""
        reason = explain(error)
        _log.warning("commit_interrupted", reason=reason, messages=len(batch.open))
        self._outcomes.hint("commit", reason)
        self._outcomes.failed("commit", reason, certain=False)
        batch.interrupted()

    def _close(self, batch: _Batch, error: BaseException) -> None:
        """Refuse what is open. Where an attempt was interrupted, a refusal does not tell its outcome."""
        hint = self._outcomes.hinted("commit") if isinstance(error, TimeoutError) else ""
        reason = f"no answer in time: {hint}" if hint else explain(error)
        if reason != self._failing:  # once, until a beat works again: there may be many publishers
            _log.error("commit_given_up", reason=reason, messages=len(batch.open))
        self._failed(reason, certain=True)
        refusal = UnavailableError(NOT_READY if not isinstance(error, ResponseError) or is_passing(error) else REFUSED)
        refusal.__cause__ = error
        batch.close(bare(refusal))

    def _failed(self, reason: str, *, certain: bool) -> None:
        self._failing = reason
        self._outcomes.failed("commit", reason, certain=certain)


@dataclass(slots=True)
class _Batch:
    """Some records, and what became of them."""

    records: Sequence[Record]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    open: list[int] = field(init=False)
    """The indexes of those whose outcome is not known yet."""
    request: Request | None = None
    """The last attempt."""
    last: BaseException | None = None
    """The error of the last attempt that was answered, or not sent."""
    in_doubt: bool = False
    """Whether the outcome of an attempt is unknown."""

    def __post_init__(self) -> None:
        self.open = list(range(len(self.records)))

    def settle(self, outcomes: Mapping[int, Outcome]) -> None:
        """Learn outcomes."""
        self.outcomes |= outcomes
        self.open = [index for index in self.open if index not in outcomes]

    def interrupted(self) -> None:
        """Learn that an attempt was not answered."""
        self.in_doubt = True
        self.settle({index: _unknown() for index in self.open if self.records[index].key is None})

    def close(self, refusal: AbideError) -> None:
        """Give what is open its last outcome."""
        unanswered = self.request is not None and isinstance(self.request.answer, LOST)
        self.settle({index: _unknown() if self.in_doubt or unanswered else refusal for index in self.open})


def _unknown() -> AbideError:
    return OutcomeUnknownError(_UNKNOWN)
