"""What must hold where the log itself was rewritten: restored from a dump, recovered, followed by a standby. No I/O.

Messages are then lost lawfully, and offsets come twice. So everybody is judged by the log that there is in the end.
What a subscriber has of it is all it was told, but for what a later gap took back: everything from its ``next`` on.
That must be the present log from where the subscriber began, without a hole, a double or anything else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.verdict import (
    Began,
    Cut,
    Got,
    Ledger,
    Log,
    Missed,
    Rewritten,
    Settled,
    before,
    offset_of,
    short,
    unsaid_of,
)

Present = Mapping[str, Mapping[int, str]]
"""Data of each channel that its log holds in the end, by offset."""


def faults(ledger: Ledger, logs: Iterable[Log], present: Present) -> list[str]:
    """Return what is wrong, in words: nothing, if the promises were kept."""
    logs = list(logs)
    wrong = list(ledger.wrong)
    for channel, held in present.items():
        concerned = [log for log in logs if log.channel == channel]
        wrong += [*ledger.misplaced(channel, held), *_left_out(ledger, channel, held)]
        wrong += [
            f"{channel}: offset {offset} is {short(held.get(offset, ''))}, acknowledged was {short(data)}"
            for offset, data in ledger.acknowledged[channel].items()
            if held.get(offset) != data
        ]
        moved = _moved(concerned, held)
        for log in concerned:
            judged = (
                _plain(log, held, moved, ledger.published(channel)) if log.plain else _positioned(ledger, log, held)
            )
            wrong += [f"{log}: {what}" for what in judged]
    return wrong


@dataclass
class _Reader:
    """What a subscriber knows while it is told one thing after the other; the methods say what is wrong with it."""

    ledger: Ledger
    channel: str
    had: dict[int, str] = field(default_factory=dict)
    """Data by offset that no gap has taken back."""
    begin: int | None = None
    """The offset after which everything is due."""
    at: str | None = None
    unsaid: str | None = None
    """Where a connection began that did not resume, until the gap is told."""
    untold: int = 0
    """Rewrites that no gap has told."""
    told: bool = False
    """Whether a gap is the last that came."""

    def began(self, began: Began) -> Iterator[str]:
        self.unsaid = unsaid_of(began)
        if began.asked is not None and began.asked != self.at:
            yield f"asked for {began.asked} and had {self.at}"
        if self.at is None or (began.resumed and self.unsaid is None):
            self.at = began.position
        self.begin = offset_of(began.position) if self.begin is None else self.begin

    def missed(self, gap: Missed) -> Iterator[str]:
        at, after = None if self.at is None else offset_of(self.at), offset_of(gap.after)
        if at is None or not (at == after or self.ledger.is_nothing(self.channel, at, after)):
            yield f"{gap} came after {self.at}"
        if not self.told:
            if not self.untold:
                yield f"{gap} though nothing was lost"
            self.untold = max(0, self.untold - 1)
        fork = offset_of(gap.next) - 1
        self.had = {offset: data for offset, data in self.had.items() if offset <= fork}
        self.at, self.unsaid, self.told = before(gap.next), None, True
        self.begin = fork if self.begin is None else min(self.begin, fork)

    def got(self, position: str, data: str) -> Iterator[str]:
        if self.unsaid is not None:
            yield f"began at {self.unsaid} and not at {self.at}, without a gap"
        offset = offset_of(position)
        if self.at is None or not self.ledger.follows(self.channel, offset_of(self.at), offset, data):
            yield f"{position} ({short(data)}) came after {self.at}"
        self.had[offset] = data
        self.at, self.unsaid, self.told = position, None, False


def _left_out(ledger: Ledger, channel: str, held: Mapping[int, str]) -> Iterator[str]:
    """Say which messages of the log a history does not show, though it shows older ones."""
    present = ledger.present(channel)
    offsets = range(min(held), max(held)) if held else ()
    left_out = [o for o in offsets if o not in held and (present is None or present.get(o, "") is not None)]
    if left_out:
        yield f"{channel}: the history leaves out {len(left_out)} messages, {_runs(left_out)}"


def _positioned(ledger: Ledger, log: Log, held: Mapping[int, str]) -> Iterator[str]:
    """Say where a log is not the present one, and where it was not told so."""
    reader = _Reader(ledger, log.channel)
    for told in log.told:
        match told:
            case Rewritten():
                reader.untold += 1
            case Settled():
                pass
            case Began():
                yield from reader.began(told)
            case Missed():
                yield from reader.missed(told)
            case Got(str(position), data):
                yield from reader.got(position, data)
            case _:
                reader.unsaid = None
    due = {offset: data for offset, data in held.items() if offset > (reader.begin or 0)}
    yield from _compared(reader.had, due, held)


def _compared(had: Mapping[int, str], due: Mapping[int, str], held: Mapping[int, str]) -> Iterator[str]:
    """Say what is missing of what is due, and what is not as it is held now."""
    missing = sorted(due.keys() - had.keys())
    if missing:
        yield f"{len(missing)} messages are missing, {_runs(missing)}, of {max(held)}"
    oldest = min(held, default=1)  # what is older may have expired
    other = sorted(offset for offset, data in had.items() if offset >= oldest and held.get(offset) != data)
    if other:
        told, now = short(had[other[0]]), short(held.get(other[0], ""))
        yield f"{len(other)} messages are not those of the log, {_runs(other)}: the first is {told} and not {now}"


def _moved(logs: Iterable[Log], held: Mapping[int, str]) -> set[str]:
    """Return the data that have had more than one offset: stored, lost, and stored again when they were sent again."""
    now = {data: offset for offset, data in held.items()}
    return {
        told.data
        for log in logs
        for told in log.told
        if isinstance(told, Got) and told.position is not None
        if now.get(told.data, offset_of(told.position)) != offset_of(told.position)
    }


def _plain(log: Log, held: Mapping[int, str], moved: Collection[str], published: Collection[str]) -> Iterator[str]:
    """Say where a connection's messages, as far as the log still holds them, don't follow each other.

    Only since the last rewriting was over: before, a message may have had another offset, in a life of the log that is
    lost, and nobody may have been told it with its position there.
    """
    offsets = {data: offset for offset, data in held.items() if data not in moved}
    due = set(offsets.values())
    at = 0
    settled = max((number for number, told in enumerate(log.told) if isinstance(told, Settled)), default=-1)
    for number, told in enumerate(log.told):
        if isinstance(told, Got):
            if told.data not in published:
                yield f"nobody published {short(told.data)}"
            offset = offsets.get(told.data)
            if offset is None:
                continue
            if number > settled and at and (offset <= at or not due.isdisjoint(range(at + 1, offset))):
                yield f"{short(told.data)}, which is {offset}, came after {at}"
            at = offset
        elif isinstance(told, Cut):
            at = 0


def _runs(offsets: Sequence[int]) -> str:
    """Return some of the runs in sorted offsets: ``3 to 5, 9``."""
    runs: list[list[int]] = []
    for offset in offsets:
        if runs and runs[-1][1] == offset - 1:
            runs[-1][1] = offset
        else:
            runs.append([offset, offset])
    shown = [f"{first} to {last}" if last > first else f"{first}" for first, last in runs[:3]]
    return ", ".join([*shown, *(["…"] if len(runs) > 3 else [])])
