"""Encoded blocks: what many catch up with, encoded once."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from app.core.delivery.encoded_blocks import BLOCK_MESSAGES, EncodedBlocks
from app.core.delivery.encodings import PLAIN_FRAMES, SSE_CHUNKS, V1_FRAMES, Encoding
from app.core.message import Message
from app.wire.frames import text_frame


def messages(first: int, last: int, *, time: int = 0) -> tuple[Message, ...]:
    return tuple(Message(offset, time, b"%d" % offset) for offset in range(first, last + 1))


class Counted:
    """An encoding that counts what it is asked for."""

    def __init__(self) -> None:
        self.written = 0
        self.encoding = Encoding(self._write, text_frame)

    def _write(self, _: str, __: str, message: Message) -> bytes:
        self.written += 1
        return message.data


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 150)), min_size=1, max_size=20))
def test_any_readers_get_what_the_encoding_makes(readers: list[tuple[int, int]]) -> None:
    """Encoded blocks give every reader the bytes that its encoding makes of its messages, however readers overlap."""
    blocks = EncodedBlocks(limit=3000)
    for number, (first, count) in enumerate(readers):
        encoding = (PLAIN_FRAMES, V1_FRAMES, SSE_CHUNKS)[number % 3]
        wanted = messages(first, first + count)
        assert blocks.encode("c", "e", encoding, wanted) == encoding("c", "e", wanted)


def test_a_crowd_is_encoded_for_once() -> None:
    """Encoded blocks of a crowd that comes back from different positions are made once, but for where each begins."""
    counted, blocks = Counted(), EncodedBlocks()
    head = 10 * BLOCK_MESSAGES
    for first in range(1, BLOCK_MESSAGES + 1):
        blocks.encode("c", "e", counted.encoding, messages(first, head))
    beginnings = sum(range(1, BLOCK_MESSAGES + 1))
    assert counted.written == beginnings + head - BLOCK_MESSAGES


def test_a_log_that_was_put_back_is_another() -> None:
    """Encoded blocks tell apart messages of the same offsets that were stored at another time, and other channels'."""
    blocks = EncodedBlocks()
    first = blocks.encode("c", "e", V1_FRAMES, messages(1, 5, time=1))
    assert blocks.encode("c", "e", V1_FRAMES, messages(1, 5, time=2)) != first
    assert blocks.encode("d", "e", V1_FRAMES, messages(1, 5, time=1)) != first
    assert blocks.encode("c", "f", V1_FRAMES, messages(1, 5, time=1)) != first


def test_what_is_kept_is_bounded() -> None:
    """Encoded blocks let go of the oldest when they are too much, even of one that is too large by itself."""
    counted = Counted()
    size = len(counted.encoding("c", "e", messages(1, BLOCK_MESSAGES)))
    blocks = EncodedBlocks(limit=2 * (size + 600))
    for number in (0, 1, 2):
        begin = number * BLOCK_MESSAGES
        blocks.encode("c", "e", counted.encoding, messages(begin + 1, begin + BLOCK_MESSAGES))
    before = counted.written
    blocks.encode("c", "e", counted.encoding, messages(2 * BLOCK_MESSAGES + 1, 3 * BLOCK_MESSAGES))
    assert counted.written == before
    blocks.encode("c", "e", counted.encoding, messages(1, BLOCK_MESSAGES))
    assert counted.written == before + BLOCK_MESSAGES
    small = EncodedBlocks(limit=1)
    assert small.encode("c", "e", PLAIN_FRAMES, messages(1, 40)) == PLAIN_FRAMES("c", "e", messages(1, 40))


def test_many_small_blocks_take_no_more_than_large_ones() -> None:
    """Encoded blocks count what is around their bytes, so that a crowd of tiny ones is bounded, too."""
    blocks = EncodedBlocks(limit=200_000)
    tracemalloc.start()
    try:
        for offset in range(1, 5000):
            blocks.encode(f"c{offset}", "e", PLAIN_FRAMES, messages(offset, offset))
        assert tracemalloc.get_traced_memory()[0] < 250_000
    finally:
        tracemalloc.stop()
