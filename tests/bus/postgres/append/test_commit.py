"""One commit, without a database: records into arguments, rows into outcomes."""

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bus.bodies import messages
from app.bus.postgres.append import commit as module
from app.bus.postgres.append.commit import MAX_INLINE_BODY, MAX_INLINE_COMMIT, SEGMENT_BYTES, Commit, Row
from app.core.errors import KeyReusedError
from app.core.message import Position, Published, Record


class Segment(NamedTuple):
    channel: str
    upto: int
    n: int
    body: str
    inline: bool


def arguments(commit: Commit) -> list[list[Any]]:
    """Return the arguments of ``abide.store``."""
    return list(commit.arguments())


def segments(commit: Commit) -> list[Segment]:
    """Return what goes into the log, each row with its channel's name."""
    channels, _, lanes, uptos, counts, bodies, inlines, *_ = arguments(commit)
    return [
        Segment(channels[lane - 1], *rest)
        for lane, *rest in zip(lanes, uptos, counts, bodies, inlines, strict=True)
    ]  # fmt: skip


def commit(*records: Record, inline: bool = True) -> Commit:
    return Commit(records, inline)


def of(channel: str, *texts: str, key: str | None = None) -> list[Record]:
    return [Record(channel, text.encode(), key) for text in texts]


def published(offset: int, *, replayed: bool = False) -> Published:
    return Published(Position("e", offset), replayed)


def test_channels_are_grouped_in_the_order_of_their_messages() -> None:
    """Commit gives each channel's messages one segment, in their order, and answers each record its offset."""
    it = commit(*of("z", "1"), *of("a", "2"), *of("z", "3"))
    assert arguments(it)[:2] == [["z", "a"], [2, 1]]
    assert segments(it) == [Segment("z", 2, 2, "1\x1e3", inline=True), Segment("a", 1, 1, "2", inline=True)]
    it.settle([(False, 1, 12, None, "e"), (False, 2, 5, None, "e")])
    assert it.open() == []
    assert it.result() == [published(11), published(5), published(12)]


def test_a_commit_over_the_bound_is_not_carried_inside_notify() -> None:
    """Commit of more than MAX_INLINE_COMMIT bytes is announced by doorbell, in the longer segments."""
    text = "x" * 5000
    fits = MAX_INLINE_COMMIT // 5000
    assert all(segment.inline for segment in segments(commit(*of("a", *[text] * fits))))
    over = segments(commit(*of("a", *[text] * (fits + 1))))
    assert [segment.inline for segment in over] == [False] * len(over)
    assert [segment.n for segment in over] == [11, 3]


def test_nothing_is_carried_inside_notify_where_that_is_off() -> None:
    """Commit with ``inline`` off carries nothing, however small."""
    assert segments(commit(*of("a", "1"), inline=False)) == [Segment("a", 1, 1, "1", inline=False)]


@pytest.mark.parametrize("character", ["x", "é", "ツ", "🎳"])
def test_bounds_are_in_bytes(character: str) -> None:
    """Commit measures bytes, not characters: a segment inside NOTIFY never has more than MAX_INLINE_BODY."""
    width = len(character.encode())
    exact = character * (MAX_INLINE_BODY // width)
    assert [segment.inline for segment in segments(commit(*of("a", exact)))] == [True]
    assert [segment.inline for segment in segments(commit(*of("a", exact + character)))] == [False]
    many = segments(commit(*of("a", *[character * (3000 // width)] * 10)))
    assert max(len(segment.body.encode()) for segment in many) <= MAX_INLINE_BODY
    assert {segment.inline for segment in many} == {True}


def test_a_message_bigger_than_a_segment_has_one_of_its_own() -> None:
    """Commit never splits a message, and keeps its neighbours out of its segment."""
    big = "x" * (SEGMENT_BYTES + 1)
    assert [(s.upto, s.n) for s in segments(commit(*of("a", "1", big, "2", "3")))] == [(1, 1), (2, 1), (4, 2)]


def test_one_segment_without_keys_goes_by_the_short_query() -> None:
    """Commit of one segment calls store_one; one with a key, two channels or two segments calls store."""
    assert commit(*of("a", "1", "2")).call() == ("store_one", ("a", 2, "1\x1e2", True))
    many = [of("a", "1", key="k"), [*of("a", "1"), *of("b", "1")], of("a", "x" * SEGMENT_BYTES, "1")]
    assert [commit(*records).call()[0] for records in many] == ["store"] * 3


def test_a_known_key_leaves_the_others_open() -> None:
    """Commit answers the records that are known and sends the rest again, numbered anew."""
    it = commit(*of("a", "1"), *of("a", "2", key="k"), *of("b", "3", key="k"))
    *_, lanes, places, keys, hashes = arguments(it)
    assert (lanes, places, keys) == ([1, 2], [2, 1], [" k", " k"])
    it.settle([(True, 1, 7, hashes[0], "e")])
    assert it.open() == [0, 2]
    channels, counts, *_, lanes, places, _, _ = arguments(it)
    assert (channels, counts, lanes, places) == (["a", "b"], [1, 1], [2], [1])
    it.settle([(False, 1, 9, None, "e"), (False, 2, 1, None, "e")])
    assert it.result() == [published(9), published(7, replayed=True), published(1)]


def test_a_known_key_with_other_data_is_refused() -> None:
    """Commit refuses a known key whose stored hash is another message's."""
    it = commit(*of("a", "1", key="k"))
    it.arguments()
    it.settle([(True, 1, 7, b"another", "e")])
    assert isinstance(it.result()[0], KeyReusedError)


def test_a_repeated_key_follows_its_first() -> None:
    """Commit stores a key that comes several times once; the others are replays of it, or refused."""
    it = commit(*of("a", "1", "1", "2", key="k"))
    assert arguments(it)[:2] == [["a"], [1]]
    it.settle([(False, 1, 4, None, "e")])
    assert it.result()[:2] == [published(4), published(4, replayed=True)]
    assert isinstance(it.result()[2], KeyReusedError)


RECORDS = st.lists(
    st.builds(
        Record,
        st.sampled_from("abc"),
        st.text(st.sampled_from("x é🎳"), min_size=1, max_size=30).map(str.encode),
        st.none() | st.sampled_from(["k", "l"]),
    ),
    min_size=1,
    max_size=30,
)


@given(RECORDS, st.booleans())
def test_every_record_is_stored_where_it_is_said_to_be(records: list[Record], inline: bool) -> None:  # noqa: FBT001 — hypothesis gives it
    """Commit answers each record an offset at which its segments, read back, hold its data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_INLINE_BODY", 40)
        patch.setattr(module, "SEGMENT_BYTES", 60)
        it = commit(*records, inline=inline)
        stored = {
            (segment.channel, message.offset): message.data
            for segment in segments(it)
            for message in messages(segment.upto, 0, segment.body.encode())
        }
        _, counts, *_ = arguments(it)
        rows = [Row(known=False, i=i, offset=n, hash=None, lineage="e") for i, n in enumerate(counts, 1)]
        it.settle(rows)
    assert it.open() == []
    assert len(stored) == sum(counts)
    for record, outcome in zip(records, it.result(), strict=True):
        if isinstance(outcome, Published):
            assert stored[record.channel, outcome.position.offset] == record.data
        else:
            assert isinstance(outcome, KeyReusedError)
