"""Positions and batches."""

import pytest

from app.core.errors import MalformedError
from app.core.message import Batch, Message, Position, consecutive


def test_a_position_reads_back_what_it_writes() -> None:
    """Position survives being written and read."""
    position = Position("a1B2", 2**53 - 1)
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a",
        "a:",
        ":1",
        "a:-1",
        "a:01",
        "a:1 ",
        "a:1\n",
        "a b:1",
        "ä:1",
        "a:\u0661",
        f"a:{2**53}",
        "a:1:2",
        "a" * 65 + ":1",
    ],
)
def test_what_is_not_a_position_is_refused(text: str) -> None:
    """Position refuses every other spelling."""
    with pytest.raises(MalformedError, match="is not a position"):
        Position.parse(text)


def test_a_batch_gives_what_comes_after_an_offset() -> None:
    """Batch returns the messages past an offset, wherever the offset lies."""
    batch = Batch("c", "e", tuple(Message(offset, 0, b"") for offset in (5, 6, 7)))
    assert [[m.offset for m in batch.after(offset)] for offset in (0, 4, 5, 7, 9)] == [
        [5, 6, 7],
        [5, 6, 7],
        [6, 7],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("offsets", "first"), [((), ()), ((3,), (3,)), ((3, 4, 5), (3, 4, 5)), ((3, 4, 6, 7), (3, 4)), ((3, 9), (3,))]
)
def test_messages_end_at_a_hole(offsets: tuple[int, ...], first: tuple[int, ...]) -> None:
    """Messages that are consecutive are those before the first offset that is missing."""
    found = consecutive([Message(offset, 0, b"1") for offset in offsets])
    assert tuple(message.offset for message in found) == first
