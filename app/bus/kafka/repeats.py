"""Messages that are in the log twice under one key: all readers leave out the later ones, and all the same.

Two workers may get the same key at the same moment, and a batch that was given up on may arrive late. So a record with
a key says up to where its writer had read the log (``abide-seen``): no record before that had its key. A reader looks
between there and the record, which is mostly nothing. If a record there has the key, the later one counts as nothing:
its offset is a message without data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from app.bus.backend import KEY_LIFETIME
from app.bus.kafka.records import KEY, SEEN, Stored, header

MOST = 10_000
"""The most records that are looked at before one."""


async def repeats(
    records: Sequence[Stored], begin: int, earlier: Callable[[int, int], Awaitable[Sequence[Stored]]]
) -> frozenset[int]:
    """Return Kafka's offsets of those records, all from ``begin`` on, that repeat the key of an earlier one.

    ``earlier`` reads the records between two of Kafka's offsets.
    """
    wanted = {record.offset: seen for record in records if (seen := _seen(record)) is not None and seen < record.offset}
    if not wanted:
        return frozenset()
    low = max(min(wanted.values()), begin - MOST)
    before = await earlier(low, begin) if low < begin else ()
    found: set[int] = set()
    places: dict[str, list[Stored]] = {}
    for record in (*before, *records):
        key = header(record, KEY)
        if key is None:
            continue
        seen = wanted.get(record.offset, record.offset)
        if any(other.offset >= seen and _is_alive(other, record) for other in places.get(key, ())):
            found.add(record.offset)
        places.setdefault(key, []).append(record)
    return frozenset(found)


def _seen(record: Stored) -> int | None:
    text = header(record, SEEN) if record.headers else None
    return int(text) if text is not None and text.isdecimal() else None


def _is_alive(earlier: Stored, later: Stored) -> bool:
    return later.time - earlier.time < KEY_LIFETIME * 1000
