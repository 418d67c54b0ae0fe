"""The tail: what it holds, what it lets go of."""

import tracemalloc

from app.core.message import Batch, Message, Position
from app.core.tail import Messages, Tail, TailBudget


def batch(first: int, last: int, data: bytes = b"x") -> Batch:
    return Batch("c", "e", tuple(Message(offset, 0, data) for offset in range(first, last + 1)))


def offsets(messages: tuple[Message, ...]) -> list[int]:
    return [message.offset for message in messages]


def test_messages_are_found_by_offset_however_many_were_dropped() -> None:
    """Messages stay addressable by offset while their start moves."""
    messages = Messages(10)
    for offset in range(11, 111):
        messages.extend([Message(offset, 0, b"x")])
        messages.drop_through(offset - 5)
        assert messages.first == max(11, offset - 4)
        assert offsets(messages.after(offset - 2, 9, 9)) == [o for o in (offset - 1, offset) if o > 10]
    assert (messages.head, len(messages)) == (110, 5)


def test_a_read_is_bounded_in_messages_and_bytes_but_never_empty() -> None:
    """Messages hands over at most what it was asked for, and at least one message."""
    messages = Messages(0)
    messages.extend(batch(1, 9, b"12345").messages)
    assert offsets(messages.after(0, 2, 1000)) == [1, 2]
    assert offsets(messages.after(0, 100, 12)) == [1, 2]
    assert offsets(messages.after(0, 100, 1)) == [1]
    assert messages.after(9, 100, 100) == ()


def test_a_tail_that_missed_something_keeps_only_what_follows() -> None:
    """Tail drops what stands before a hole, so that it stays consecutive."""
    tail = Tail(TailBudget(10_000))
    tail.start(Position("e", 4))
    tail.deliver(batch(5, 6))
    assert tail.messages.first == 5
    tail.deliver(batch(9, 10))
    assert (tail.messages.first, tail.head) == (9, 10)


def test_the_budget_is_shared_and_the_oldest_go_first() -> None:
    """Budget bounds all tails together and lets go of the oldest batch, whosever it is."""
    budget = TailBudget(4000)  # three messages, and what is around them
    old, new = Tail(budget), Tail(budget)
    for tail in (old, new):
        tail.start(Position("e", 0))
    old.deliver(batch(1, 1, b"x" * 1000))
    old.deliver(batch(2, 2, b"x" * 1000))
    new.deliver(batch(1, 2, b"x" * 1000))
    assert (len(old.messages), len(new.messages)) == (1, 2)
    assert old.messages.first == 2


def test_a_budget_bounds_memory_whatever_the_size_of_messages() -> None:
    """Budget counts what is around a message and a batch, so that tiny ones are bounded, too."""
    tail = Tail(TailBudget(500_000))
    tail.start(Position("e", 0))
    tracemalloc.start()
    try:
        for offset in range(1000, 11_000):
            tail.deliver(batch(offset, offset, b"%d" % offset))
        assert tracemalloc.get_traced_memory()[0] < 600_000
    finally:
        tracemalloc.stop()
