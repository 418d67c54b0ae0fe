"""Request heads of event streams that were read before: found where they mean the same, and nowhere else."""

from __future__ import annotations

import pytest

from app.wire.known_handshakes import LONGEST_HEAD, MOST_HEADS
from app.wire.known_streams import KnownStreams
from app.wire.request_head import parse

BEARER = "Authorization: Bearer a.token"
EVENT = "Last-Event-ID: a:1"


def get(target: str, *lines: str) -> bytes:
    """Return a request for an event stream."""
    head = (f"GET {target} HTTP/1.1", "Host: localhost", "Accept: text/event-stream", *lines, "", "")
    return "\r\n".join(head).encode("latin-1")


def known(*heads: bytes) -> KnownStreams[bytes]:
    """Return the heads as they are remembered, each with itself as its meaning."""
    remembered = KnownStreams[bytes]()
    for data in heads:
        head = parse(data)
        assert head is not None
        remembered.remember(data, head.headers, data)
    return remembered


def test_a_head_is_found_with_its_differing_parts() -> None:
    """Head is found whatever its query, its credential and its last event are, and these are returned."""
    first = get("/orders?heartbeat=true", BEARER, EVENT)
    found = known(first).find(get("/orders?since=b:2", "Authorization: Bearer other", "Last-Event-ID: b:20"))
    assert found == (first, (b"since=b:2", b"other", b"b:20"))


def test_a_head_without_what_may_differ_is_found() -> None:
    """Head that has nothing that may differ is found by itself."""
    first = get("/orders")
    assert known(first).find(first) == (first, (b"", None, None))


@pytest.mark.parametrize(
    "data",
    [
        get("/others?a=b", BEARER, EVENT),
        get("/orders", BEARER, EVENT),
        get("/orders?a=b", BEARER),
        get("/orders?a=b", EVENT),
        get("/orders?a=b", EVENT, BEARER),
        get("/orders?a=b", "Authorization: Basic a.token", EVENT),
        get("/orders?a=b", "Authorization: Bearer a, b", EVENT),
        get("/orders?a=b", "Authorization: Bearer \xe4", EVENT),
        get("/orders?a=b", "Authorization: Bearer  a.token", EVENT),
        get("/orders?a=b", BEARER, "Last-Event-ID: a:1 "),
        get("/orders?a=b", BEARER, "Last-Event-ID: \xe4"),
        get("/orders?a=b", BEARER, EVENT, EVENT),
        get("/orders?a=b", BEARER, EVENT, BEARER),
        get("/orders?a b", BEARER, EVENT),
        get("/orders?a#b", BEARER, EVENT),
        get("/orders?a=b", BEARER, EVENT, "Origin: https://evil.example"),
        get("/orders?a=b", BEARER, EVENT, "Content-Length: 1"),
        get("/orders?a=b", BEARER, EVENT) + b"more",
        get("/orders?a=b", BEARER, EVENT)[:-1],
        get("/orders?a=b", BEARER, EVENT).replace(b"GET", b"PUT"),
        get("/orders?a=b", BEARER, EVENT).replace(b"HTTP/1.1", b"HTTP/1.0"),
        get("/orders?a=b", BEARER, EVENT).replace(b"Accept", b"Accepts"),
        b"",
    ],
)
def test_a_head_that_may_mean_something_else_is_not_found(data: bytes) -> None:
    """Head that differs elsewhere, or has a part that is not valid, is not found."""
    assert known(get("/orders?a=b", BEARER, EVENT)).find(data) is None


@pytest.mark.parametrize(
    "lines",
    [
        (BEARER, BEARER),
        (BEARER, "AUTHORIZATION: Basic other"),
        (EVENT, EVENT),
        ("LAST-EVENT-ID: a:2", EVENT),
    ],
)
def test_a_head_with_a_part_that_comes_twice_is_not_remembered(lines: tuple[str, ...]) -> None:
    """Head with two credentials, or two last events, is not remembered: which of them counts is part of its meaning."""
    data = get("/orders", *lines)
    assert known(data).find(data) is None


def test_few_and_short_heads_are_remembered() -> None:
    """Heads beyond the bound push out those before, and one that is too long is neither remembered nor found."""
    heads = [get(f"/orders.{number}") for number in range(MOST_HEADS + 1)]
    remembered = known(*heads)
    assert remembered.find(heads[0]) is None
    assert remembered.find(heads[-1]) is not None
    assert remembered.find(get(f"/orders.{MOST_HEADS}?{'a' * LONGEST_HEAD}")) is None
    long = get("/orders", f"X-A: {'a' * LONGEST_HEAD}")
    assert known(long).find(long) is None
