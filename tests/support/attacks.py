"""The attacks: what a party without a key can do to make the server hold or compute too much."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable

from tests.support.attackers import Attack, Attacker
from tests.support.wire import CONTINUATION, PING, PONG, TEXT, frame, request

KIB, MIB = 1024, 1024 * 1024

MAX_BODY = 8 * MIB
"""Bytes of the largest body that is taken."""

ATTACKS: dict[str, Attack] = {}
"""All, by name."""

_ENVELOPE = b'{"channel":"events","message":%b}'
_SUBSCRIPTIONS = 20_000
_PIPELINED = 10_000


def _attack(
    what: str,
    payload: Callable[[], bytes] = bytes,
    *,
    reads: bool = True,
    lasts: bool = False,
    publishes: bool = False,
) -> Callable[[Callable[[Attacker], None]], None]:
    def add(run: Callable[[Attacker], None]) -> None:
        name = run.__name__.strip("_").replace("_", "-")
        ATTACKS[name] = Attack(name, what, run, payload, reads=reads, lasts=lasts, publishes=publishes)

    return add


def _head(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: abide", *headers, "", ""]).encode("latin-1")


def _post(path: str, length: int | None, *headers: str) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return _head(f"POST {path}", "Content-Type: application/json", framing, *headers)


def _whole(body: bytes) -> bytes:
    return _post("/push", len(body)) + body


def _open_v1(one: Attacker) -> None:
    one.open("/ws", "Sec-WebSocket-Protocol: abide.v1")


def _send_and_hold(one: Attacker) -> None:
    one.send(one.payload)
    one.hold()


# Bodies.


@_attack("a body of 8 MiB, but for its last byte", lambda: _post("/push", MAX_BODY) + b"[" * (MAX_BODY - 1), lasts=True)
def _unfinished_bodies(one: Attacker) -> None:
    one.connect()
    _send_and_hold(one)


@_attack("a body, a byte every 2 s", lasts=True)
def _slow_bodies(one: Attacker) -> None:
    one.connect()
    if one.number % 2:
        one.send(_post("/push", MAX_BODY))
        one.trickle(b"[" * KIB)
    else:
        one.send(_post("/push", None))
        one.trickle(b"1\r\n[\r\n" * KIB)


def _send_whole(one: Attacker) -> None:
    one.connect()
    one.send(one.payload)
    one.await_answer()


@_attack("7.7 MiB of `[[],[],…]`", lambda: _whole(b"[%b[]]" % (b"[]," * int(7.7 * MIB / 3))))
def _array_bodies(one: Attacker) -> None:
    _send_whole(one)


def _items(item: bytes, size: int) -> bytes:
    message = b"[%b]" % b",".join([item] * ((size - 2) // (len(item) + 1)))
    return _whole(b"[%b]" % b",".join([_ENVELOPE % message] * 8))


@_attack("8 messages of 1 MiB each, of arrays in arrays", lambda: _items(b"[" * 50 + b"]" * 50, MIB - 100))
def _nested_bodies(one: Attacker) -> None:
    _send_whole(one)


@_attack("8 messages of 1 MiB each, of arrays half a million deep", lambda: _whole(_deep(8, MIB - 100)))
def _deep_bodies(one: Attacker) -> None:
    _send_whole(one)


def _deep(count: int, size: int) -> bytes:
    message = b"[" * (size // 2) + b"]" * (size // 2)
    return b"[%b]" % b",".join([_ENVELOPE % message] * count)


def _members(count: int) -> bytes:
    """Return an object with so many members, in as few bytes as may be."""
    letters = (string.ascii_letters + string.digits + string.punctuation).replace('"', "").replace("\\", "")
    names = itertools.chain.from_iterable(itertools.product(letters, repeat=size) for size in (2, 3, 4))
    return ("{%s}" % ",".join([f'"{"".join(name)}":1' for name in itertools.islice(names, count)])).encode()  # noqa: UP031 — JSON has braces


@_attack("an object of 1,000,000 members", lambda: _whole(_members(1_000_000)))
def _wide_bodies(one: Attacker) -> None:
    _send_whole(one)


@_attack("16 MiB of trailers", lambda: _post("/push", None) + b"2\r\n[]\r\n0\r\n" + b"X-A: b\r\n" * (2 * MIB))
def _trailers(one: Attacker) -> None:
    one.connect()
    _send_and_hold(one)


@_attack("16 MiB of chunk extensions, in one chunk or in many")
def _chunk_extensions(one: Attacker) -> None:
    one.connect()
    one.send(_post("/push", None))
    block = b"x" * (64 * KIB) if one.number % 2 else (b"1;" + b"x" * (KIB - 7) + b"\r\n[\r\n") * 64
    one.send(b"1;" if one.number % 2 else b"")
    for _ in range(16 * MIB // len(block)):
        one.send(block)
    one.hold()


@_attack("8 MiB in chunks of one byte", lambda: b"1\r\n[\r\n" * MIB)
def _tiny_chunks(one: Attacker) -> None:
    one.connect()
    one.send(_post("/push", None))
    for _ in range(8):
        one.send(one.payload)
    one.send(b"0\r\n\r\n")
    one.await_answer()


# Heads.


@_attack("63 KiB of a head that goes on", lambda: _head("GET /").rstrip() + b"\r\nX: " + b"x" * (63 * KIB), lasts=True)
def _unfinished_heads(one: Attacker) -> None:
    one.connect()
    _send_and_hold(one)


@_attack("a head, a byte every 2 s", lasts=True)
def _slow_heads(one: Attacker) -> None:
    one.connect()
    one.trickle(_head("GET /health/live", *(f"X-{number}: x" for number in range(1000))))


@_attack("a connection that says nothing, or half a handshake", lasts=True)
def _half_open_handshakes(one: Attacker) -> None:
    one.connect()
    if one.number % 2:
        one.send(request("/ws")[:-2])
    one.hold()


@_attack("headers of 60 KiB, each time new: Accept, Origin, Content-Type")
def _new_headers(one: Attacker) -> None:
    one.connect()
    for number in itertools.count():
        value = f"a/{one.number}-{one.times}-{number}-".ljust(60 * KIB, "x")
        match number % 3:
            case 0:
                one.send(_head("GET /news", f"Accept: {value}"))
            case 1:
                one.send(_post("/push/news", 1, f"Origin: {value}") + b"1")
            case _:
                one.send(_head("POST /push/news", f"Content-Type: {value}", "Content-Length: 1") + b"1")
        one.await_answer()


# Answers that nobody reads.


@_attack(
    "10,000 requests behind a long-poll, nothing read",
    lambda: _head("GET /health/live") * _PIPELINED,
    reads=False,
    lasts=True,
)
def _pipelined_requests(one: Attacker) -> None:
    one.connect()
    one.send(_head(f"GET /room.{one.number}/history?wait=30"))
    one.send(one.payload)
    one.hold()


@_attack("`history?limit=1000` of 13 MB, never read", reads=False, lasts=True)
def _unread_history(one: Attacker) -> None:
    one.connect()
    one.send(_head("GET /filled/history?limit=1000"))
    one.hold()


@_attack("the same 100 times, pipelined", reads=False, lasts=True)
def _unread_histories(one: Attacker) -> None:
    one.connect()
    one.send(_head("GET /filled/history?limit=1000") * 100)
    one.hold()


@_attack("an event stream, never read, while messages are published", reads=False, lasts=True, publishes=True)
def _unread_streams(one: Attacker) -> None:
    one.connect()
    one.send(_head("GET /news", "Accept: text/event-stream"))
    one.hold()


@_attack(
    "a WebSocket, never read, that sends pongs, while messages are published", reads=False, lasts=True, publishes=True
)
def _unread_sockets(one: Attacker) -> None:
    one.open("/news")
    while True:
        one.send(frame(PONG))
        one.hold(1)


@_attack(
    '`/ws`, nothing read, 12 MiB of `{"type":"x"}`',
    lambda: frame(TEXT, b'{"type":"x"}') * (MIB // 18),
    reads=False,
    lasts=True,
)
def _unread_replies(one: Attacker) -> None:
    _open_v1(one)
    for _ in range(12):
        one.send(one.payload)
    one.hold()


@_attack("1 MiB frames that come back, never read", lambda: _text_of(MIB), reads=False, lasts=True)
def _unread_echo(one: Attacker) -> None:
    one.open("/events")
    while True:
        one.send(one.payload)


# Frames.


def _text_of(size: int) -> bytes:
    return frame(TEXT, b'"%b"' % (b"x" * (size - 2)))


@_attack("a frame of 1 MiB, but for its last byte, with client_publish", lambda: _text_of(MIB)[:-1], lasts=True)
def _unfinished_frames(one: Attacker) -> None:
    one.open("/events")
    _send_and_hold(one)


@_attack("the same without client_publish", lambda: _text_of(MIB)[:-1], lasts=True)
def _unwanted_frames(one: Attacker) -> None:
    one.open("/news")
    _send_and_hold(one)


@_attack("the same on `/ws`", lambda: _text_of(MIB)[:-1], lasts=True)
def _unfinished_commands(one: Attacker) -> None:
    _open_v1(one)
    _send_and_hold(one)


@_attack("a frame, a byte every 2 s", lambda: _text_of(MIB)[:KIB], lasts=True)
def _slow_frames(one: Attacker) -> None:
    one.open("/events")
    one.trickle(one.payload)


@_attack("1 MiB in empty fragments", lambda: frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * (MIB // 6))
def _empty_fragments(one: Attacker) -> None:
    _open_v1(one)
    one.send(one.payload)


@_attack("600 KB of empty pings, again and again", lambda: frame(PING) * 100_000)
def _pings(one: Attacker) -> None:
    one.open("/news")
    while True:
        one.send(one.payload)


@_attack("`/ws`, frames of an object with one member", lambda: frame(TEXT, b'{"a":1}') * 10_000)
def _small_commands(one: Attacker) -> None:
    _open_v1(one)
    while True:
        one.send(one.payload)


@_attack(
    "`/ws`, frames of 1 MiB, of an object with 100,000 members",
    lambda: frame(TEXT, _members(130_000)[:-1].ljust(MIB, b" ") + b"}"),
)
def _wide_commands(one: Attacker) -> None:
    _open_v1(one)
    while True:
        one.send(one.payload)


@_attack("`/ws`, with as many subscriptions as it gets, of 20,000")
def _subscriptions(one: Attacker) -> None:
    _open_v1(one)
    for number in range(_SUBSCRIPTIONS):
        one.send(frame(TEXT, f'{{"type":"subscribe","channel":"room.{one.number}-{number}"}}'.encode()))
    one.hold()


# What is remembered of pushes.


def _push_again_and_again(one: Attacker, head: Callable[[int], bytes]) -> None:
    one.connect()
    for number in itertools.count():
        one.send(head(number) + b"1".rjust(128))
        one.await_answer()


@_attack("pushes with idempotency keys, each new")
def _new_keys(one: Attacker) -> None:
    def head(number: int) -> bytes:
        return _post("/push/news", 128, "Idempotency-Key: " + f"{one.number}-{one.times}-{number}-".ljust(255, "x"))

    _push_again_and_again(one, head)


@_attack("pushes to ever new names of an open family")
def _new_names(one: Attacker) -> None:
    def head(number: int) -> bytes:
        return _post("/push/room." + f"{one.number}-{one.times}-{number}-".ljust(100, "x"), 128)

    _push_again_and_again(one, head)
