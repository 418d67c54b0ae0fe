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


@pytest.mark.parametrize("form", ["bearer.{}", "abide.v1, bearer.{}", "bearer.{}, abide.v1"])
def test_a_credential_of_a_page_differs_too(form: str) -> None:
    """Head whose credential is a subprotocol, as a page has to send it, is found whatever the credential is."""
    first, other = (request("/orders", add=(f"Sec-WebSocket-Protocol: {form.format(one)}",)) for one in ("a.b", "c-d"))
    found = known(first).find(other)
    assert found is not None
    assert found[0] == first
    assert found[1].bearer == b"c-d"


@pytest.mark.parametrize(
    "lines",
    [
        (BEARER, BEARER),
        (BEARER, "AUTHORIZATION: Bearer other"),
        (BEARER, "Sec-WebSocket-Protocol: bearer.x"),
        ("AUTHORIZATION: Bearer other", "Sec-WebSocket-Protocol: bearer.x"),
        ("Authorization: Basic eDp5", "Sec-WebSocket-Protocol: bearer.x"),
        ("Sec-WebSocket-Protocol: bearer.x, bearer.y",),
        ("Sec-WebSocket-Protocol: bearer.x", "Sec-WebSocket-Protocol: bearer.y"),
        ("Sec-WebSocket-Protocol: bearer.x", "Sec-WebSocket-Protocol: other"),
    ],
)
def test_a_head_with_several_credentials_is_not_remembered(lines: tuple[str, ...]) -> None:
    """Head with two credentials is not remembered: which of them counts is a part of its meaning."""
    data = request("/orders", add=lines)
    assert known(data).find(data) is None


def test_a_subprotocol_that_is_no_token_is_not_found() -> None:
    """Head is not found where the credential has a character that no subprotocol has."""
    first = request("/orders", add=("Sec-WebSocket-Protocol: bearer.x",))
    for credential in ("x/y", "x=", "x y", "x;y"):
        assert known(first).find(request("/orders", add=(f"Sec-WebSocket-Protocol: bearer.{credential}",))) is None


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
