"""What is published: the topics, the calls of publish.lua, and what is heard of them. No I/O.

A publication is its time in milliseconds and the texts of its messages, each after a delimiter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.bus.backend import KEY_LIFETIME
from app.bus.redis.sessions.session import Word
from app.core.errors import KeyReusedError, UnavailableError, bare
from app.core.message import Message, Position, Published, Record
from app.core.ports import Outcome

DELIMITER = b"\x1e"
"""A control character, so no JSON text contains it."""

PUBLISH, TELL = (Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8") for name in ("publish", "tell"))
"""The functions that run inside Redis."""

_PUBLISH, _TELL = (
    ("EVALSHA", hashlib.sha1(script.encode()).hexdigest(), 1, "abide:nothing")  # noqa: S324 — how Redis names it
    for script in (PUBLISH, TELL)
)

_PUBLISHED, _REPLAYED = Published(Position("", 0)), Published(Position("", 0), replayed=True)

REFUSED = "Redis refused this: try again in a moment"
"""The text for clients. The reason contains names and addresses, so only the log and readiness show it."""


TOPICS = "abide:live:"
"""How all topics begin."""


def topic_of(channel: str, database: int) -> str:
    """Return the topic of a channel. Pub/sub knows no databases, so the name has the number."""
    return f"{TOPICS}{database}:{channel}"


def read(payload: bytes, after: int, no_earlier: int) -> list[Message]:
    """Return what a publication holds as messages with offsets after ``after``, at ``no_earlier`` or later.

    Raises ValueError for what publish.lua has not published.
    """
    time, *texts = payload.split(DELIMITER)
    milliseconds = max(int(time), no_earlier)
    return [Message(offset, milliseconds, text) for offset, text in enumerate(texts, after + 1)]


class Call:
    """One call of publish.lua, with the records of a batch at these indexes."""

    def __init__(self, records: Sequence[Record], indexes: Iterable[int], database: int) -> None:
        self._records = records
        self._items: list[list[int]] = []
        """The indexes of the records of each item: some without a key, or one with a key."""
        runs: dict[str, list[int]] = {}
        for index in indexes:
            record = records[index]
            if record.key is None and record.channel in runs:
                runs[record.channel].append(index)
                continue
            item = [index]
            self._items.append(item)
            if record.key is None:
                runs[record.channel] = item
            else:
                runs.pop(record.channel, None)  # in the order in which they came
        self.words = self._words(database)

    def outcomes(self, answers: Sequence[bytes]) -> dict[int, Outcome]:
        """Return the outcome of each record, by its index."""
        outcomes: dict[int, Outcome] = {}
        for item, answer in zip(self._items, answers, strict=True):
            outcome = self._outcome(self._records[item[0]], answer)
            outcomes.update((index, outcome) for index in item)
        return outcomes

    def _words(self, database: int) -> list[Word]:
        words: list[Word] = [*_PUBLISH, KEY_LIFETIME * 1000]
        for item in self._items:
            record = self._records[item[0]]
            words += [topic_of(record.channel, database), DELIMITER.join([self._records[at].data for at in item])]
            words += ["", ""] if record.key is None else [_key(record), _digest(record)]
        return words

    def _outcome(self, record: Record, answer: bytes) -> Outcome:
        if not answer:
            return _PUBLISHED
        if answer.startswith(b"!"):
            return bare(UnavailableError(REFUSED))
        return _REPLAYED if answer.decode() == _digest(record) else bare(KeyReusedError.of(record.key))


def text_to(topic: str, text: str) -> list[Word]:
    """Return a call of tell.lua."""
    return [*_TELL, topic, text]


def _key(record: Record) -> str:
    name = f"{record.channel} {record.scoped_key}"  # no channel's name has a space
    return f"abide:live:key:{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"


def _digest(record: Record) -> str:
    return hashlib.blake2b(record.data, digest_size=16).hexdigest()
