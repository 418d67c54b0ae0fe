"""Encoded messages that many catch up with are encoded once.

After a deploy thousands of subscribers come back, each from its own position of the last few hundred.
What they lack differs in where it begins, and is the same from there on: so it is cut at the same
offsets for everybody, and each block is kept for a while.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.core.delivery.encodings import Encoding
from app.core.message import Message

BLOCK_MESSAGES = 32
"""A block ends with an offset that this divides, or where the messages end."""

BLOCKS_BYTES = 8 * 1024 * 1024
"""What is kept of all channels together, at most."""

_OVERHEAD = 512
"""Bytes that CPython takes for a block besides its data: its key, its entry, a bytes header."""

_Key = tuple[str, str, Encoding, int, int, int, int]
"""Channel, epoch, encoding, offset and time of the first message and of the last.

Times, because a log that was put back has the same offsets again, but later.
"""


class EncodedBlocks:
    """Those kept, the oldest first."""

    def __init__(self, limit: int = BLOCKS_BYTES) -> None:
        self._limit = limit
        self._kept: dict[_Key, bytes] = {}
        self._size = 0

    def encode(self, channel: str, epoch: str, encoding: Encoding, messages: Sequence[Message]) -> bytes:
        """Return consecutive messages, one after the other: what ``encoding`` makes of them."""
        return b"".join([self._block(channel, epoch, encoding, block) for block in _cut(messages)])

    def _block(self, channel: str, epoch: str, encoding: Encoding, messages: Sequence[Message]) -> bytes:
        first, last = messages[0], messages[-1]
        key = (channel, epoch, encoding, first.offset, first.time, last.offset, last.time)
        block = self._kept.get(key)
        if block is None:
            block = self._kept[key] = encoding(channel, epoch, messages)
            self._size += len(block) + _OVERHEAD
            while self._size > self._limit:
                self._size -= len(self._kept.pop(next(iter(self._kept)))) + _OVERHEAD
        return block


def _cut(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    begin = 0
    while begin < len(messages):
        end = begin + BLOCK_MESSAGES - (messages[begin].offset - 1) % BLOCK_MESSAGES
        yield messages[begin:end]
        begin = end
