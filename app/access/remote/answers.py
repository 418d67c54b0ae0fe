"""Answers that an application gave, kept for as long as it said."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from app.core.rights.policy import Answer, Forwarded, Question

MOST_ANSWERS = 10_000
"""The most answers that are kept."""

MOST_KEPT = 8 * 1024 * 1024
"""The most characters of credentials and questions that are kept with them."""

Asked = tuple[Forwarded, Question]
"""Who asks what. It is compared as a whole, never as one joined text."""


class _Kept(NamedTuple):
    answer: Answer
    ends: float
    """When it is no longer good, in monotonic seconds."""
    size: int


class Answers:
    """The answers used last. ``now`` returns seconds since the Unix epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: OrderedDict[Asked, _Kept] = OrderedDict()
        self._size = 0

    def get(self, asked: Asked) -> Answer | None:
        """Return the answer to a question; None if there is none, or its time is over.

        Its time is over by the first of two clocks: if somebody sets the wall clock back, rights do not live longer.
        """
        kept = self._kept.get(asked)
        if kept is None:
            return None
        if kept.answer.until is None or kept.answer.until <= self._now() or kept.ends <= time.monotonic():
            self._drop(asked)
            return None
        self._kept.move_to_end(asked)
        return kept.answer

    def keep(self, asked: Asked, answer: Answer) -> None:
        """Keep an answer that says for how long it is good."""
        if answer.until is None:
            return
        self._drop(asked)
        size = _size(asked)
        self._kept[asked] = _Kept(answer, time.monotonic() + answer.until - self._now(), size)
        self._size += size
        while len(self._kept) > MOST_ANSWERS or self._size > MOST_KEPT:
            self._drop(next(iter(self._kept)))

    def _drop(self, asked: Asked) -> None:
        kept = self._kept.pop(asked, None)
        if kept is not None:
            self._size -= kept.size


def _size(asked: Asked) -> int:
    credentials, question = asked
    headers = sum(len(name) + len(value) for name, value in credentials.headers)
    return headers + len(credentials.origin or "") + len(question.channel)
