"""What clients may say, what they may not, and what they are answered: RFC 6455 as a table."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame

LIMIT = 1024 * 1024
"""Bytes of the largest message that the server of the table takes."""


class Conversation(NamedTuple):
    """What the client sends, the frames that it is answered, and the close code that ends it.

    ``code`` is what the server sends, and what it tells its application: None for a close without one.
    """

    name: str
    sent: bytes
    answers: list[tuple[int, bytes]]
    code: int | None = 1000


def _echoed(name: str, opcode: int, data: bytes) -> Conversation:
    return Conversation(name, frame(opcode, data) + close(1000), [(opcode, data)])


def _refused(name: str, sent: bytes, code: int, *answers: tuple[int, bytes]) -> Conversation:
    # What follows the mistake must not be answered.
    return Conversation(name, sent + frame(TEXT, b"ignored") + close(1000), list(answers), code)


SIZES = [
    _echoed(f"{name} of {size} bytes", opcode, b"*" * size)
    for name, opcode in (("text", TEXT), ("binary", BINARY))
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 300_000, LIMIT)
]

PINGS = [
    Conversation("ping", frame(PING) + close(1000), [(PONG, b"")]),
    Conversation("ping with bytes", frame(PING, bytes(range(125))) + close(1000), [(PONG, bytes(range(125)))]),
    Conversation("ten pings", b"".join(frame(PING, b"%d" % n) for n in range(10)) + close(1000), [
        (PONG, b"%d" % n) for n in range(10)
    ]),
    Conversation("pong that nobody asked for", frame(PONG, b"x") + frame(PING, b"y") + close(1000), [(PONG, b"y")]),
    _refused("ping that is too long", frame(PING, bytes(126)), 1002),
    _refused("ping that is fragmented", frame(PING, fin=False) + frame(CONTINUATION), 1002),
    _refused("pong that is fragmented", frame(PONG, fin=False) + frame(CONTINUATION), 1002),
    _refused("close that is fragmented", frame(CLOSE, fin=False) + frame(CONTINUATION), 1002),
    _refused("close that is too long", frame(CLOSE, b"\x03\xe8" + bytes(124)), 1002),
]  # fmt: skip

HEADERS = [
    *(
        _refused(f"reserved bits {reserved:03b} of opcode {opcode}", frame(opcode, b"x", reserved=reserved), 1002)
        for opcode in (TEXT, BINARY, PING, CLOSE)
        for reserved in range(1, 8)
    ),
    *(
        _refused(f"reserved opcode {opcode}", frame(TEXT, b"x") + frame(opcode, b"x"), 1002, (TEXT, b"x"))
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ),
    _refused("text without a mask", frame(TEXT, b"x", mask=None), 1002),
    _refused("ping without a mask", frame(PING, mask=None), 1002),
    _refused("close without a mask", frame(CLOSE, b"\x03\xe8", mask=None), 1002),
    _refused("7 bits of length in 16", frame(BINARY, bytes(125), length_size=2), 1002),
    _refused("7 bits of length in 64", frame(BINARY, bytes(125), length_size=8), 1002),
    _refused("16 bits of length in 64", frame(BINARY, bytes(65535), length_size=8), 1002),
    _refused("length with the highest bit", b"\x82\xff\x80" + bytes(7), 1002),
    _refused("longest length", b"\x82\xff\x7f" + b"\xff" * 7, 1009),
    _refused("message over the limit", frame(BINARY, bytes(LIMIT + 1))[:10], 1009),
    _refused("fragments over the limit", frame(BINARY, bytes(LIMIT), fin=False) + frame(CONTINUATION, b"xy")[:2], 1009),
]

FRAGMENTS = [
    Conversation(
        "two fragments", frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + close(1000), [(TEXT, b"ab")]
    ),
    Conversation(
        "empty fragments",
        frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * 3 + frame(CONTINUATION) + close(1000),
        [(BINARY, b"")],
    ),
    Conversation(
        "thousand fragments of a byte",
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 998 + frame(CONTINUATION, b"x")
        + close(1000),
        [(TEXT, b"x" * 1000)],
    ),
    Conversation(
        "ping between fragments",
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"b") + close(1000),
        [(PONG, b"p"), (TEXT, b"ab")],
    ),
    Conversation("close between fragments", frame(TEXT, b"a", fin=False) + close(1000), []),
    _refused("continuation of nothing", frame(CONTINUATION, b"x"), 1002),
    _refused("last fragment of nothing", frame(CONTINUATION, b"x", fin=False), 1002),
    _refused("message inside a message", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    _refused("fragment begun twice", frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False), 1002),
    _refused(
        "continuation after the last",
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b") + frame(CONTINUATION, b"c"),
        1002,
        (TEXT, b"ab"),
    ),
]  # fmt: skip

UTF8 = [
    *(
        _echoed(f"valid text {data.hex(' ')}", TEXT, data)
        for data in (
            "κόσμε".encode(),
            b"\x00", b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xee\x80\x80",
            b"\xef\xbf\xbd", b"\xef\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xef\xbf\xbe",
        )
    ),
    *(
        _refused(f"invalid text {data.hex(' ')}", frame(TEXT, data), 1007)
        for data in (
            b"\x80", b"\xbf", b"\xc0\xaf", b"\xc1\xbf", b"\xc2", b"\xe0\x80\xaf", b"\xe0\x9f\xbf", b"\xe2\x82",
            b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\xaf", b"\xf0\x9f\x92", b"\xf4\x90\x80\x80",
            b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff", "κόσμε".encode() + b"\xed\xa0\x80edited",
        )
    ),
    Conversation(
        "character in two fragments",
        frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\xac") + close(1000),
        [(TEXT, "€".encode())],
    ),
    _refused("invalid text in two fragments", frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28"), 1007),
    _echoed("binary that is no text", BINARY, b"\xff\xfe"),
]  # fmt: skip

CLOSES = [
    Conversation("close without a code", frame(CLOSE), [], None),
    *(
        Conversation(f"close with {code}", close(code), [], code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
    ),
    *(
        Conversation(f"close with {code}", close(code), [], 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    Conversation("close with a reason", close(1000, "καλό".encode()), []),
    Conversation("close with the longest reason", close(1000, b"x" * 123), []),
    Conversation("close with half a code", frame(CLOSE, b"\x03"), [], 1002),
    Conversation("close whose reason is no text", close(1000, b"\xff"), [], 1007),
]

# Sent in one piece only: a later piece meets a closed link, and the reset may overtake the answer.
AFTER_A_CLOSE = [
    Conversation("frames after a close", close(1000) + frame(TEXT, b"x") + frame(PING) + close(1001), []),
    Conversation("close twice", close(4001) + close(4002), [], 4001),
]

ALL = [*SIZES, *PINGS, *HEADERS, *FRAGMENTS, *UTF8, *CLOSES]
