"""One commit: turns records into calls of store.lua, and their answers into outcomes. No I/O."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from redis.crc import key_slot

from app.bus.backend import KEY_LIFETIME, Retention
from app.bus.redis.sessions.router import Request
from app.bus.redis.streams import names
from app.bus.redis.streams.lua import words
from app.core.channel import HistoryWindow
from app.core.epochs import label
from app.core.errors import AbideError, KeyReusedError, bare
from app.core.message import Position, Published, Record
from app.core.ports import Outcome

MAX_TOLD_BYTES = 64 * 1024
"""The most bytes of messages that a publication carries: every worker that follows the channel gets a copy."""

LEAST_SECONDS = 60
"""What is younger stays in the log, whatever the history: followers may still have to fetch it."""

_IDLE_SECONDS = 7 * 24 * 3600
"""A channel is forgotten when it has been idle for so much longer than its history, and nobody follows it."""


@dataclass(frozen=True, slots=True)
class Style:
    """What all commits of a backend have in common."""

    worker: str
    """The name of this process in keys."""
    database: int
    is_cluster: bool
    replicas: int
    """How many replicas must have a commit."""
    retention: Retention


@dataclass(slots=True, eq=False)
class Part:
    """The records of a commit that one call stores: all of them, or in a cluster those of one slot."""

    request: Request
    lanes: list[tuple[str, list[int]]]
    """The channels, each with the indexes of its records in the commit."""
    interrupted: bool = False
    """Whether the outcome of an attempt is unknown."""

    @property
    def indexes(self) -> list[int]:
        """All of its records."""
        return [index for _, indexes in self.lanes for index in indexes]


@dataclass(slots=True, eq=False)
class Commit:
    """Some records on their way into the log: settle or close each of :attr:`parts`."""

    records: Sequence[Record]
    style: Style
    parts: list[Part] = field(init=False)
    """Those that are not stored or refused yet."""
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    _first: dict[tuple[str, str], int] = field(default_factory=dict)
    """The first record of each key."""

    def __post_init__(self) -> None:
        lanes: dict[str, list[int]] = {}
        for index, record in enumerate(self.records):
            if record.key is None or self._first.setdefault((record.channel, record.scoped_key), index) == index:
                lanes.setdefault(record.channel, []).append(index)
        if not self.style.is_cluster:
            self.parts = [self._part(list(lanes.items()))]
            return
        by_slot: dict[int, list[tuple[str, list[int]]]] = {}
        for channel, indexes in lanes.items():
            by_slot.setdefault(key_slot(names.head(channel).encode()), []).append((channel, indexes))
        self.parts = [self._part(there) for there in by_slot.values()]

    def settle(self, part: Part, answers: Sequence[bytes], refuse: Callable[[str, str], AbideError]) -> None:
        """Take what store.lua has answered; ``refuse`` makes a refusal of a channel and a reason."""
        for (channel, indexes), answer in zip(part.lanes, answers, strict=True):
            text = answer.decode()
            if text.startswith("!"):
                refusal = refuse(channel, text[1:])
                self.outcomes.update((index, refusal) for index in indexes)
            else:
                self._settle_lane(indexes, text.split(" "))
        self.parts.remove(part)

    def close(self, part: Part, refusal: AbideError) -> None:
        """Give the part's records this outcome."""
        self.outcomes.update((index, refusal) for index in part.indexes)
        self.parts.remove(part)

    def result(self) -> list[Outcome]:
        """Return one outcome for each record; valid when no part is left."""
        if not self._first:
            return [self.outcomes[index] for index in range(len(self.records))]
        return [self._outcome(index, record) for index, record in enumerate(self.records)]

    def _part(self, lanes: list[tuple[str, list[int]]]) -> Part:
        keys: list[str] = []
        arguments: list[str | bytes | int] = [
            secrets.token_hex(8), secrets.token_hex(4), secrets.token_hex(16), self.style.replicas, KEY_LIFETIME * 1000,
            "SPUBLISH" if self.style.is_cluster else "PUBLISH",
        ]  # fmt: skip
        for channel, indexes in lanes:
            keys += [names.head(channel), names.log(channel), names.done(channel, self.style.worker)]
            history = self.style.retention(channel)
            body = b"\x1e".join([self.records[index].data for index in indexes])
            keyed = [(place, index) for place, index in enumerate(indexes, 1) if self.records[index].key is not None]
            arguments += [
                names.topic(channel, self.style.database), log_ttl(history), head_ttl(history), MAX_TOLD_BYTES, body,
                len(keyed),
            ]  # fmt: skip
            for place, index in keyed:
                record = self.records[index]
                keys.append(names.key(channel, record.scoped_key))
                arguments += [place, _digest(record)]
        return Part(Request(keys[0], words("store", keys, arguments)), lanes)

    def _settle_lane(self, indexes: list[int], answer: list[str]) -> None:
        offset, epoch = int(answer[0]), label(answer[1])
        known = dict(zip(map(int, answer[2::3]), zip(answer[3::3], answer[4::3], strict=True), strict=True))
        for place, index in enumerate(indexes, 1):
            if place in known:
                stored, digest = known[place]
                self.outcomes[index] = self._judge(self.records[index], Position(epoch, int(stored)), digest)
            else:
                self.outcomes[index] = Published(Position(epoch, offset))
                offset += 1

    def _judge(self, record: Record, position: Position, digest: str) -> Outcome:
        return Published(position, replayed=True) if digest == _digest(record) else KeyReusedError.of(record.key)

    def _outcome(self, index: int, record: Record) -> Outcome:
        leader = index if record.key is None else self._first[record.channel, record.scoped_key]
        outcome = self.outcomes[leader]
        if leader == index or not isinstance(outcome, Published):
            return outcome
        if self.records[leader].data != record.data:
            return bare(KeyReusedError.of(record.key))
        return Published(outcome.position, replayed=True)


def log_ttl(history: HistoryWindow) -> int:
    """Return for how many milliseconds a stream is kept after its newest message."""
    return max(history.ttl, LEAST_SECONDS) * 1000


def head_ttl(history: HistoryWindow) -> int:
    """Return for how many milliseconds a head is kept after its newest message, or since somebody followed it."""
    return (history.ttl + _IDLE_SECONDS) * 1000


def _digest(record: Record) -> str:
    return hashlib.sha256(record.data).hexdigest()[:32]
