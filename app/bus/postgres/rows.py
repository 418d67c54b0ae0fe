"""Rows of the log, parsed into messages. A row that was written into the log by hand stops no reader.

Rows that a server writes hold messages that were checked when they were published. Any other row is a mistake: it is
logged once, and readers go on.

* Text that is no JSON, or nested too deep, becomes a JSON string, like plain text that is published over HTTP.
* A row with another number of messages than it says becomes one such string, at its last offset.
* A row larger than any that a server writes is left out (``sql/read.sql``). It is a gap, as a deleted row is.

Offsets ascend and come once, whatever rows say. Reading JSON again costs as much as reading the row, so only small rows
are checked: those are the ones that people write by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import asyncpg
import orjson
import structlog

from app.bus import bodies
from app.core import data
from app.core.channel import MAX_MESSAGE_SIZE
from app.core.errors import MalformedError
from app.core.message import Message
from app.core.scan import MAX_DEPTH

CHECKED_BYTES = 4096
"""The most bytes of a row whose JSON is read again."""

_TOLD = 1000
"""The most bad rows that are remembered, so that each is logged once."""

_LONGEST_ESCAPE = 6
"""The most bytes that a character of a JSON string takes."""

_log = structlog.get_logger(__name__)


class Rows:
    """Takes rows apart, each a record with ``last``, ``n``, ``time`` and ``body``."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], None] = {}

    def messages(self, channel: str, after: int, rows: Iterable[asyncpg.Record]) -> list[Message]:
        """Return the messages past ``after``. ``rows`` ascend by their last offset; None stands for no row."""
        found: list[Message] = []
        for row in rows:
            if row["last"] is not None:
                found += [message for message in self._taken_apart(channel, row) if message.offset > after]
                after = max(after, row["last"])
        return found

    def tell_of_hole(self, channel: str, begin: int, messages: Sequence[Message]) -> None:
        """Log that messages are missing, if the first one comes after ``begin``."""
        if messages and messages[0].offset > begin:
            self._tell(channel, begin, f"the messages up to {messages[0].offset - 1} are missing: subscribers are told")

    def _taken_apart(self, channel: str, row: asyncpg.Record) -> tuple[Message, ...]:
        text: bytes = row["body"].encode()
        messages = bodies.messages(row["last"], row["time"], text)
        if len(messages) == row["n"] and (len(text) > CHECKED_BYTES or _is_json(text, len(messages))):
            return messages
        if len(messages) != row["n"]:
            messages = (messages[-1]._replace(data=text),)
        made = tuple(message._replace(data=_as_json(message.data)) for message in messages)
        if made != messages:
            self._tell(channel, row["last"], "text that is no JSON, or is nested too deep, is sent as a JSON string")
        return made

    def _tell(self, channel: str, offset: int, what: str) -> None:
        if (channel, offset) in self._told:
            return
        if len(self._told) == _TOLD:
            del self._told[next(iter(self._told))]
        self._told[channel, offset] = None
        detail = f"abide.log was changed by hand: {what}. Publish over HTTP or with abide.publish, which check the data"
        _log.warning("bad_row", channel=channel, offset=offset, detail=detail)


def _is_json(text: bytes, n: int) -> bool:
    """Whether a body holds ``n`` JSON texts; False also where that takes a closer look."""
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        return False
    try:
        return len(orjson.loads(b"[%b]" % text.replace(b"\x1e", b","))) == n
    except ValueError:
        return False


def _as_json(text: bytes) -> bytes:
    """Return JSON as it is, and any other text as a JSON string, cut to fit a message however it is escaped."""
    try:
        return data.check_bytes(text)
    except MalformedError:
        return json.dumps(text.decode()[: MAX_MESSAGE_SIZE // _LONGEST_ESCAPE], ensure_ascii=False).encode()
