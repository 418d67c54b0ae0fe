"""What one client of the fuzz sends: frames of all sorts, from a seed and a number, cut anywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import NamedTuple

from tests.support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

FORMS = (
    ("/events", None),  # plain, with client_publish
    ("/news", None),  # plain, without
    ("/events", "abide.v1"),
    ("/news", "abide.v1"),
    ("/chat.a", "abide.v1"),
    ("/ws", "abide.v1"),
    ("/ws", "abide.v1"),
    ("/echo", None),
)
"""Paths and subprotocols."""

_MUTE = ("/news", None)
"""Where the first text closes."""

_LONG, _SHORT = (3, 10, 40, 100, 300), (1, 2, 3, 4, 5)
"""Frames of a connection."""

NEVER = "never"
"""How the data of messages begins that are to be refused."""

_MASKS = (bytes(4), b"\x37\xfa\x21\x3d")

_WRONG_IDS = (
    *("true", "false", "[]", "{}", "[1]", '{"a":1}', "1e999", "-1e999", "1.5", "9007199254740993", "-9007199254740993"),
    *('"\\ud800"', '"\\udfff\\ud800"', '"a\\udc00"', "1" * 4301, "-" + "9" * 4301, "1" * 20),
)
"""Ids that are neither a string nor an integer below 2^53."""

_ODD_IDS = ("0", "-1", '""', '"a"', '"\\u0000"', '"\\ud83d\\ude00"', '"' + "x" * 300 + '"', "9007199254740991", "null")
"""Ids that may be taken."""

_NUMBERS = ("0", "-0", "1", "-1", "1e5", "1E-5", "1.5", "1e999", "-1e999", "1e-999", "9" * 400, "0." + "1" * 400)
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x1", "1e", "--1")
_STRINGS = ('"a"', '""', '"\\ud800"', '"\\u0000"', '"\u20ac"', '"\U0001f600"', '"\\/"', '"' + "x" * 1000 + '"')
_NO_STRINGS = ('"', '"\\x"', '"\\u12"', "'a'", '"\n"', '"\x01"', "a", '"a', "\ufeff1")
_CHANNELS = ('"events"', '"news"', '"chat.a"', '"chat.b"', '"nope"', '"chat."', '""', '"\\udfff"', "1", "null", "[]")
_POSITIONS = ('"earliest"', '"x:1"', '":"', '"a:-1"', '"a:99999999999999999999"', "1", "null", '"' + "0" * 5000 + '"')
_COUNTS = ("0", "1", "5", "-1", "1.5", '"5"', "1e3", "9" * 5000, "null", "true")
_CODES = (1000, 1001, 1003, 1007, 3000, 4999)
_WRONG_CODES = (0, 999, 1004, 1005, 1006, 1015, 2000, 5000, 65535)


class Script(NamedTuple):
    """What one client does."""

    path: str
    subprotocol: str | None
    segments: list[bytes]
    frames: int
    ending: str
    """``live``: it asks for a pong in the end. ``fatal``: the server has to close. ``cut``: it goes amid a frame."""
    ids: frozenset[int]
    """What has to be answered, each once."""
    code: int
    """With which it closes."""
    reads: bool


def script(seed: int, number: int) -> Script:
    """Return the script of one connection; the same for the same seed and number."""
    return _Writer(random.Random(f"{seed} {number}"), number).write()  # noqa: S311 — to be played again


class _Writer:
    def __init__(self, dice: random.Random, number: int) -> None:
        self._dice = dice
        self._number = number
        self._count = 0
        self._ids: set[int] = set()

    def write(self) -> Script:
        dice = self._dice
        path, subprotocol = dice.choice(FORMS)
        speak = self._request if subprotocol else self._value
        sent = [self._frame(speak) for _ in range(dice.choice(_LONG if (path, subprotocol) != _MUTE else _SHORT))]
        ending = dice.choices(("live", "fatal", "cut"), (6, 3, 1))[0]
        if ending == "fatal":
            sent.append(self._fatal())
        elif ending == "cut":
            whole = frame(TEXT, b"x" * 300)
            sent.append(whole[: dice.randrange(1, len(whole))])
        return Script(
            path,
            subprotocol,
            self._cut(sent),
            len(sent),
            ending,
            frozenset(self._ids),
            dice.choice(_CODES),
            reads=dice.random() > 0.05,
        )

    # Frames.

    def _frame(self, speak: Callable[[], str]) -> bytes:
        kind = self._dice.random()
        if kind < 0.8:
            payload = speak().encode("utf-8", "surrogatepass")
            if kind < 0.08:
                return self._fragmented(payload)
            return frame(TEXT, payload, mask=self._dice.choice(_MASKS) if len(payload) < 300 else _MASKS[0])
        if kind < 0.995:
            payload = self._dice.randbytes(self._dice.choice((0, 1, 8, 125)))
            return frame(self._dice.choice((PING, PONG)), payload)
        return self._doubtful()

    def _fragmented(self, payload: bytes) -> bytes:
        places = sorted(self._dice.choices(range(len(payload) + 1), k=self._dice.randint(1, 4)))
        pieces = [payload[start:end] for start, end in zip([0, *places], [*places, len(payload)], strict=True)]
        between = frame(PING, b"between") if self._dice.random() < 0.3 else b""
        frames = [
            frame(CONTINUATION if at else TEXT, piece, fin=at == len(pieces) - 1, mask=_MASKS[0])
            for at, piece in enumerate(pieces)
        ]
        return between.join(frames)

    def _doubtful(self) -> bytes:
        """Return what some forms take, and others close for."""
        dice = self._dice
        match dice.randrange(5):
            case 0:
                return frame(BINARY, dice.randbytes(dice.randrange(200)))
            case 1:
                return frame(TEXT, b'"' + b"x" * dice.choice((65_000, 66_000, 200_000)) + b'"', mask=_MASKS[0])
            case 2:
                depth = dice.choice((100, 129, 1000, 50_000))
                return frame(TEXT, b"[" * depth + b"]" * depth, mask=_MASKS[0])
            case 3:
                return frame(TEXT, dice.choice(_NO_STRINGS + _NO_NUMBERS).encode())
            case _:
                ids = self._ids.copy()
                # What it asks for may become right or wrong by the change.
                text = bytearray(self._request().replace(NEVER, "perhaps").encode("utf-8", "surrogatepass"))
                self._ids = ids
                text[dice.randrange(len(text))] = dice.randrange(256)
                return frame(TEXT, bytes(text), mask=_MASKS[0])

    def _fatal(self) -> bytes:
        """Return what no connection survives."""
        dice = self._dice
        length = dice.choice((b"\x80" + bytes(7), b"\x7f" + b"\xff" * 7, bytes(4) + b"\x40" + bytes(3)))
        return dice.choice(
            (
                frame(TEXT, b"x", reserved=dice.randrange(1, 8)),
                frame(dice.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15)), b"x"),
                frame(TEXT, b"1", mask=None),
                frame(PING, bytes(126)),
                frame(PING, fin=False),
                frame(CONTINUATION, b"x"),
                b"\x82\xff" + length,
                frame(TEXT, dice.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"))),
                frame(CLOSE, dice.choice(_WRONG_CODES).to_bytes(2, "big")),
                frame(CLOSE, dice.choice((b"\x03", b"\x03\xe8\xff", b"\x03\xe8" + bytes(124)))),
                frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
            )
        )

    def _cut(self, sent: list[bytes]) -> list[bytes]:
        """Cut what is sent: not at all, between frames, at some places, or into bytes."""
        dice, whole = self._dice, b"".join(sent)
        match dice.randrange(4):
            case 0:
                return [whole]
            case 1:
                return sent
            case 2 if len(whole) < 400:
                return [whole[at : at + 1] for at in range(len(whole))]
            case _:
                places = sorted(dice.choices(range(len(whole)), k=dice.randint(1, 40)))
                cut = zip([0, *places], [*places, len(whole)], strict=True)
                return [whole[start:end] for start, end in cut if start < end]

    # Texts.

    def _value(self, depth: int = 0) -> str:
        """Return JSON."""
        dice = self._dice
        match dice.randrange(6 if depth < 4 else 3):
            case 0:
                return dice.choice(_NUMBERS)
            case 1:
                return dice.choice(_STRINGS)
            case 2:
                return dice.choice(("true", "false", "null"))
            case 3:
                return (
                    "[" + dice.choice((",", " , ")).join(self._value(depth + 1) for _ in range(dice.randrange(4))) + "]"
                )
            case 4:
                depth = dice.randrange(1, 128)
                return "[" * depth + "]" * depth
            case _:
                names = dice.choice((('"a"', '"b"'), ('"a"', '"\\u0062"'), ('"type"',), ('"a"', '"a"')))
                return "{" + ",".join(f"{name}:{self._value(depth + 1)}" for name in names) + "}"

    def _request(self) -> str:
        """Return a message of ``abide.v1``."""
        dice = self._dice
        kind = dice.random()
        if kind < 0.5:
            return self._well_formed()
        if kind < 0.7:
            self._count += 1
            data = json.dumps(f"{NEVER} {self._number} {self._count}")
            return f'{{"type":"publish","channel":"events","id":{dice.choice(_WRONG_IDS)},"data":{data}}}'
        members = {
            "type": dice.choice(
                ('"publish"', '"subscribe"', '"unsubscribe"', '"x"', "1", "null", '"\\ud800"', '"publish "')
            ),
            "id": dice.choice(_ODD_IDS),
            "channel": dice.choice(_CHANNELS),
            "data": self._value(),
            "since": dice.choice(_POSITIONS),
            "last": dice.choice(_COUNTS),
            "key": dice.choice(('"k"', '""', '"\\n"', '"' + "k" * 256 + '"', "1", "null", '"\\ud800"')),
            "more": "1",
        }
        names = dice.sample(sorted(members), dice.randrange(len(members)))
        return "{" + ", ".join(f'"{name}" :{members[name]}' for name in names) + "}"

    def _well_formed(self) -> str:
        dice = self._dice
        self._count += 1
        self._ids.add(self._count)
        match dice.randrange(4):
            case 0:
                return f'{{"type":"subscribe","id":{self._count},"channel":{dice.choice(_CHANNELS[:5])},"last":1}}'
            case 1:
                return f'{{"type":"unsubscribe","id":{self._count},"channel":{dice.choice(_CHANNELS[:5])}}}'
            case _:
                data = dice.choice(_NUMBERS + _STRINGS)
                return f'{{"type":"publish","id":{self._count},"channel":{dice.choice(_CHANNELS[:5])},"data":{data}}}'
