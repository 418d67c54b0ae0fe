"""Whether what the server did with a stream of the corpus is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from tests.support.reading import answers
from tests.support.reading.corpus import BEHIND, Entry, Message, Verdict
from tests.support.reading.echo import from_json
from tests.support.reading.ours import Outcome

_OK, _SWITCHING = 200, 101
_BEHIND = Message("GET", "/behind", b"")


class Reading(NamedTuple):
    """An outcome without the bytes of the answers: what was asked, and with what statuses it was answered."""

    messages: tuple[Message, ...]
    statuses: tuple[int, ...]
    closed: bool

    @property
    def is_refused(self) -> bool:
        """Whether the server read something that it did not accept."""
        return bool(self.statuses) and self.statuses[-1] not in (_OK, _SWITCHING)


def reading(outcome: Outcome) -> Reading:
    """Reduce an outcome. Fails unless each request that the application saw was answered with what it saw."""
    given = answers.parse(outcome.received)
    for message, answer in zip(outcome.messages, given, strict=False):
        if message.method == "WEBSOCKET":
            assert answer.status == _SWITCHING, answer
        else:
            assert answer.status == _OK, (message, answer)
            assert message.method == "HEAD" or from_json(answer.body) == message, (message, answer)
    assert len(outcome.messages) <= len(given) <= len(outcome.messages) + 1, f"{outcome.messages} got {given}"
    return Reading(outcome.messages, tuple(answer.status for answer in given), outcome.closed)


def try_reading(outcome: Outcome) -> Reading | str:
    """Return the reading, or what is wrong with the answers."""
    try:
        return reading(outcome)
    except AssertionError as error:
        return str(error)[:500]


def arrangements(entry: Entry) -> list[tuple[int, bytes]]:
    """Return how often the entry is sent, and then the ordinary request; 0 for once and without that one.

    What is to be refused may end before the server can know: there something always follows.
    """
    alone = [(0, entry.sent)]
    if not entry.is_finite:
        return alone
    followed = [(1, entry.sent + BEHIND), (2, entry.sent * 2 + BEHIND)]
    return followed if any(verdict.end == "refused" for verdict in entry.verdicts) else alone + followed


def is_right(entry: Entry, times: int, got: Reading) -> bool:
    """Whether one of the entry's verdicts allows this reading of an arrangement."""
    return any(_allows(verdict, times, got) for verdict in entry.verdicts)


def _allows(verdict: Verdict, times: int, got: Reading) -> bool:
    expected, statuses = list(verdict.messages), [_OK] * len(verdict.messages)
    closed = verdict.end in ("closed", "refused")
    if verdict.end == "open" and times:
        expected = [*expected * times, _BEHIND]
        statuses = [_OK] * len(expected)
    if verdict.end == "switched":
        statuses[-1] = _SWITCHING
        closed = got.closed  # the application closes the WebSocket: how that goes on is not of interest here
    if verdict.end == "refused":
        return (
            _same(expected, got.messages)
            and list(got.statuses[:-1]) == statuses
            and any(status in verdict.statuses for status in got.statuses[-1:])
            and got.closed
        )
    return _same(expected, got.messages) and list(got.statuses) == statuses and got.closed == closed


def _same(expected: Iterable[Message], got: Iterable[Message]) -> bool:
    """Whether the messages are these. What went past ASGI tells the path alone of its target, decoded."""
    mine, theirs = list(expected), list(got)
    return len(mine) == len(theirs) and all(
        (one.method, one.body) == (other.method, other.body)
        and other.target in (one.target, unquote(one.target.partition("?")[0]))
        for one, other in zip(mine, theirs, strict=True)
    )
