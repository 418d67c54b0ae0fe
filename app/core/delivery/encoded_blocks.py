"""Encodes the messages that many subscriptions catch up on once.

After a deploy thousands of subscribers reconnect, each with a position of its own among the last few
hundred. The messages that they need differ only in where they begin. So they are cut into blocks at
the same offsets for everybody, and each encoded block is cached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from app.core.delivery.encodings import Encoding
from app.core.message import Message

BLOCK_MESSAGES = 32
"""A block ends at an offset that is divisible by this, or at the last message."""

BLOCKS_BYTES = 8 * 1024 * 1024
"""The most bytes in the cache, over all channels."""

_OVERHEAD = 512
"""Bytes that CPython needs for a block besides its data: its key, its entry, a bytes header."""

_Key = tuple[str, str, Encoding, int, int, int, int]
"""Channel, epoch, encoding, offset and time of the first message and of the last.

Times, because a log that was restored from a backup has the same offsets again, but later.
"""


class EncodedBlocks:
    """The cache; the oldest block is dropped first."""

    def __init__(self, limit: int = BLOCKS_BYTES) -> None:
        self._limit = limit
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._size = 0

    def encode(self, channel: str, epoch: str, encoding: Encoding, messages: Sequence[Message]) -> bytes:
        """Return what ``encoding`` makes of consecutive messages."""
        return b"".join([self._block(channel, epoch, encoding, block) for block in _cut(messages)])

    def _block(self, channel: str, epoch: str, encoding: Encoding, messages: Sequence[Message]) -> bytes:
        first, last = messages[0], messages[-1]
        key = (channel, epoch, encoding, first.offset, first.time, last.offset, last.time)
        block = self._kept.get(key)
        if block is None:
            block = self._kept[key] = encoding(channel, epoch, messages)
            self._size += len(block) + _OVERHEAD
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1]) + _OVERHEAD
        return block


def _cut(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    begin = 0
    while begin < len(messages):
        end = begin + BLOCK_MESSAGES - (messages[begin].offset - 1) % BLOCK_MESSAGES
        yield messages[begin:end]
        begin = end
