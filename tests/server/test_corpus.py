"""One byte stream has one reading: the corpus in ``corpus/``, whole and in pieces, beside what h11 reads in it."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reading import strict
from tests.support.reading.corpus import BEHIND, ENDS, TOPICS, Entry, Message, entries
from tests.support.reading.judge import Reading, arrangements, is_right, reading, try_reading
from tests.support.reading.ours import Ours, Outcome

SMALL = 200
"""Bytes of an entry that is cut everywhere."""

CUTS = 3
"""Cuts of any other stream, and pairs of cuts of any."""

ENOUGH = 3
"""Entries of a topic that are cut behind the same bytes."""

H11_REFUSES = {
    # Line breaks before a request line (RFC 9112 §2.2 asks servers to take one).
    *("line breaks before a request", "two line breaks before a request", "hundred line breaks before a request"),
    *("line break before a request with a body", "line break behind a body, as old browsers sent"),
    "nothing but a line break",
    # Numbers of more digits than it has room for.
    *("chunk size of 30 digits with leading zeros", "chunk size of 5,000 zeros", "length of 4,301 zeros"),
    *("chunk size fffffffffffffffffffffffffffff5", "length 10000000000000000000000000"),
    "length 0000000000000000000000000005 with leading zeros",
    # Blanks before an extension (RFC 9112 §7.1.1 has them as "bad whitespace").
    *("odd extension '5 ;a'", "odd extension '5 ; a = b'", "odd extension '5\\t;\\ta'"),
    # Trailers, which it checks as if they were headers.
    *("trailer Content-Length: x", "trailer Transfer-Encoding: gzip"),
    # What follows a handshake is not HTTP.
    "WebSocket with a frame behind it",
}
"""Entries of which we may accept more than h11 does."""


@pytest.fixture(scope="module", params=[False, True], ids=["ASGI", "direct"])
def ours(request: pytest.FixtureRequest) -> Iterator[Ours]:
    """Start our server, which hands small requests to ASGI or past it."""
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.setLevel(logging.ERROR)  # thousands of refusals
    with Ours(direct=request.param) as ours:
        yield ours
    logger.setLevel(before)


def of(topic: str) -> list[Entry]:
    return [entry for entry in entries() if entry.topic == topic]


class Case(NamedTuple):
    """An entry, how often it is sent, and the streams that this is: whole, and then in pieces."""

    entry: Entry
    times: int
    streams: list[Sequence[bytes]]


def read(ours: Ours, cases: Iterable[Case]) -> Iterator[tuple[Case, list[Outcome]]]:
    """Return the cases with what becomes of their streams, which all come side by side."""
    outcomes = iter(ours.read(stream for case in cases for stream in case.streams))
    return ((case, list(islice(outcomes, len(case.streams)))) for case in cases)


def told(entry: Entry, times: int, what: object) -> str:
    return f"{entry.name!r}, sent {times or 'once, alone'}: {what}"


def test_the_corpus_is_large_and_well_formed() -> None:
    """Corpus has at least 500 entries with names of their own, and only ends that mean something."""
    names = [entry.name for entry in entries()]
    assert len(names) >= 500
    assert len(names) == len(set(names))
    assert {verdict.end for entry in entries() for verdict in entry.verdicts} == set(ENDS)


@pytest.mark.parametrize("topic", TOPICS)
def test_each_request_is_answered_or_refused_as_the_corpus_says(ours: Ours, topic: str) -> None:
    """Server answers each entry, and what is pipelined behind it, or refuses it and closes the connection."""
    wrong = []
    cases = [Case(entry, times, [[stream]]) for entry in of(topic) for times, stream in arrangements(entry)]
    for (entry, times, _), (outcome,) in read(ours, cases):
        got = try_reading(outcome)
        if isinstance(got, str) or not is_right(entry, times, got):
            wrong.append(told(entry, times, f"{got}"[:400]))
    assert not wrong, f"{len(wrong)} are wrong:\n" + "\n".join(wrong)


@pytest.mark.parametrize("topic", TOPICS)
def test_the_pieces_in_which_a_request_comes_do_not_matter(ours: Ours, topic: str) -> None:
    """Server reads the same in a stream that is whole and in one that is cut anywhere into two, three or all bytes."""
    wrong: list[str] = []
    cases: list[Case] = []
    heads: Counter[bytes] = Counter()
    for entry in of(topic):
        for number, (times, stream) in enumerate(arrangements(entry)):
            pieces = list(here_and_there(stream, entry.name))
            if number == 0 and len(entry.sent) <= SMALL:
                pieces.append([stream[at : at + 1] for at in range(len(stream))])
                if not ours.direct:
                    pieces += everywhere(stream, len(entry.sent), heads)
            cases.append(Case(entry, times, [[stream], *pieces]))
    for (entry, times, _), (first, *others) in read(ours, cases):
        whole = try_reading(first)
        # Which of several bounds a large request meets first may depend on what has come.
        wrong += [
            told(entry, times, f"whole {whole}, cut {got}"[:700])
            for got in {try_reading(outcome) for outcome in set(others)} - {whole}
            if len(entry.sent) <= SMALL or isinstance(got, str) or not is_right(entry, times, got)
        ]
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong)


def everywhere(stream: bytes, size: int, heads: Counter[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut a stream once at each byte up to ``size``, unless others that begin so were cut there often enough."""
    for at in range(1, min(size + 1, len(stream))):
        heads[stream[:at]] += 1
        if heads[stream[:at]] <= ENOUGH:
            yield stream[:at], stream[at:]


def here_and_there(stream: bytes, seed: str) -> Iterator[Sequence[bytes]]:
    """Cut a stream once and twice at some places, which are always the same."""
    dice = random.Random(seed)  # noqa: S311 — as above
    places = range(1, len(stream))
    for at in dice.sample(places, min(CUTS, len(places))):
        yield stream[:at], stream[at:]
    for _ in range(CUTS if len(places) > 1 else 0):
        first, second = sorted(dice.sample(places, 2))
        yield stream[:first], stream[first:second], stream[second:]


@pytest.mark.parametrize("topic", TOPICS)
def test_no_request_is_read_in_another_way_than_h11_reads_it(ours: Ours, topic: str) -> None:
    """Server sees the messages that h11 sees, headers included, or refuses one and closes."""
    wrong = []
    cases = [Case(entry, times, [[stream]]) for entry in of(topic) for times, stream in arrangements(entry)[-1:]]
    for (entry, times, [[stream]]), (outcome,) in read(ours, cases):
        got, theirs = try_reading(outcome), strict.read(stream)
        if isinstance(got, str) or not agrees(got, theirs, ours, lenient=entry.name in H11_REFUSES):
            wrong.append(told(entry, times, f"ours {got}, h11's {theirs}"[:1000]))
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong)


def agrees(got: Reading, theirs: strict.Reading, ours: Ours, *, lenient: bool = False) -> bool:
    """Whether we read what h11 reads, or refuse. ``lenient`` says that we may accept what it refuses."""
    mine = [comparable(message, ours) for message in got.messages]
    his = [comparable(message, ours) for message in theirs.messages]
    if any(one != other for one, other in zip(mine, his, strict=False)):
        return False
    if got.is_refused or 101 in got.statuses:
        return lenient or len(mine) <= len(his)
    return lenient or (len(mine) == len(his) and not theirs.is_refused)


def comparable(message: Message, ours: Ours) -> Message:
    """Return the message as both can know it."""
    method = "GET" if message.method == "WEBSOCKET" else message.method
    return message._replace(method=method, target=ours.known_target(method, message.target))


TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\xff", b"0", b"5", b"-", b"+", b"0x"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n"),
    *(b"Connection: Upgrade\r\n", b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Connection: close\r\n"),
    *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET ", b"POST ", BEHIND),
    *(b"Expect: 100-continue\r\n", b"Authorization: Bearer k\r\n", b"X: y\r\n", b" X: y\r\n", b"X : y\r\n", b";a=b"),
]

SHORT = [entry.sent for entry in entries() if len(entry.sent) <= 2 * SMALL]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Return an entry in which up to three places were changed, or two entries that were spliced."""
    stream = draw(st.sampled_from(SHORT))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(stream)))
        match draw(st.sampled_from(["insert", "delete", "replace", "repeat", "splice"])):
            case "insert":
                stream = stream[:at] + draw(st.sampled_from(TOKENS)) + stream[at:]
            case "delete":
                stream = stream[:at] + stream[at + draw(st.integers(1, 20)) :]
            case "replace":
                stream = stream[:at] + bytes([draw(st.integers(0, 255))]) + stream[at + 1 :]
            case "repeat":
                end = at + draw(st.integers(1, 40))
                stream = stream[:end] + stream[at:]
            case _:
                other = draw(st.sampled_from(SHORT))
                stream = stream[:at] + other[draw(st.integers(0, len(other))) :]
    return stream


@settings(max_examples=300, derandomize=True, deadline=None)
@given(stream=mutations(), seed=st.integers(0, 9))
def test_whatever_is_made_of_a_request_has_one_reading(ours: Ours, stream: bytes, seed: int) -> None:
    """Server reads the same in a mutated entry however it is cut, and nothing that h11 reads in another way."""
    stream += BEHIND
    dice = random.Random(seed)  # noqa: S311 — hypothesis's
    places = [sorted(dice.sample(range(1, len(stream)), dice.randint(1, 4))) for _ in range(6)]
    pieces = [
        [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True)]
        for at in (*places, range(1, len(stream)))
    ]
    whole, *cut = [reading(outcome) for outcome in ours.read([[stream], *pieces])]
    assert set(cut) == {whole}
    theirs = strict.read(stream)
    assert agrees(whole, theirs, ours, lenient=theirs.is_refused), (whole, theirs)
