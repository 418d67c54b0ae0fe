"""Request heads of handshakes that were read before: found where they mean the same, and nowhere else."""

from __future__ import annotations

import pytest

from app.wire.known_handshakes import LONGEST_HEAD, MOST_HEADS, KnownHandshakes
from app.wire.request_head import parse
from tests.support.wire import KEY, request

OTHER_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
BEARER = "Authorization: Bearer a.token"


def known(*heads: bytes) -> KnownHandshakes[bytes]:
    """Return the heads as they are remembered, each with itself as its meaning."""
    remembered = KnownHandshakes[bytes]()
    for data in heads:
        head = parse(data)
        assert head is not None
        remembered.remember(data, head.headers, data)
    return remembered


def test_a_head_is_found_with_its_differing_parts() -> None:
    """Head is found whatever its key, its query and its bearer credential are, and these are returned."""
    first = request("/orders?since=a:1", add=(BEARER,))
    data = request("/orders?since=b:2&last=3", add=("Authorization: Bearer other",)).replace(
        KEY.encode(), OTHER_KEY.encode()
    )
    found = known(first).find(data)
    assert found is not None
    meaning, differing = found
    assert meaning == first
    assert differing == (OTHER_KEY.encode(), b"since=b:2&last=3", b"other")


@pytest.mark.parametrize(
    "data",
    [
        request("/others?since=a:1", add=(BEARER,)),
        request("/orders", add=(BEARER,)),
        request("/orders?since=a:1"),
        request("/orders?since=a:1", add=("Authorization: Basic a.token",)),
        request("/orders?since=a:1", add=(BEARER, "Origin: https://evil.example")),
        request("/orders?since=a:1", add=(BEARER,)).replace(b"HTTP/1.1", b"HTTP/1.0"),
        request("/orders?since=a:1", add=(BEARER,)) + b"more",
        request("/orders?since=a:1", add=(BEARER,))[:-1],
        request("/orders?since=a:1", add=("Authorization: Bearer a, b",)),
        request("/orders?since=a:1", add=("Authorization: Bearer \xe4",)),
        request("/orders?since=a 1", add=(BEARER,)),
        request("/orders?since=a#1", add=(BEARER,)),
        request("/orders?since=a\x001", add=(BEARER,)),
        request("/orders?since=a:1", add=(BEARER, BEARER)),
        request("/orders?since=a:1", drop=("Sec-WebSocket-Key",), add=(BEARER,)),
        request("/orders?since=a:1", drop=("Sec-WebSocket-Key",), add=(BEARER, f"Sec-WebSocket-Key: {KEY}")),
        b"",
    ],
)
def test_a_head_that_may_mean_something_else_is_not_found(data: bytes) -> None:
    """Head that differs elsewhere, or has a part that is not valid, is not found."""
    assert known(request("/orders?since=a:1", add=(BEARER,))).find(data) is None


def test_parts_that_another_line_repeats_are_not_remembered() -> None:
    """Head with two credentials is not remembered: whether they are the same is a part of its meaning."""
    data = request("/orders", add=(BEARER, BEARER))
    assert known(data).find(data) is None


def test_a_key_of_another_length_is_no_key_of_the_same_head() -> None:
    """Head with a longer key is not found, though it begins with a valid one."""
    data = request("/orders")
    assert known(data).find(data.replace(KEY.encode(), KEY.encode() + b"=")) is None


def test_few_and_short_heads_are_remembered() -> None:
    """Heads beyond the bound push out those before, and one that is too long is not remembered."""
    heads = [request(f"/orders.{number}") for number in range(MOST_HEADS + 1)]
    remembered = known(*heads)
    assert remembered.find(heads[0]) is None
    assert remembered.find(heads[-1]) is not None
    long = request("/orders", add=(f"X-A: {'a' * LONGEST_HEAD}",))
    assert known(long).find(long) is None


@pytest.mark.parametrize(("path", "bearer"), [("/orders?since=%b", b"a"), ("/orders?since=a", b"%b")])
def test_a_long_head_of_a_known_kind_is_not_found(path: str, bearer: bytes) -> None:
    """Head that its query or its credential makes too long is not found: the parser has bounds for both."""
    data = request(path, add=(f"Authorization: Bearer {bearer.decode()}",))
    remembered = known(data % b"a")
    assert remembered.find(data % b"b") is not None
    assert remembered.find(data % (b"b" * LONGEST_HEAD)) is None
