"""Encodings: messages as the bytes that subscribers get, made once and shared by all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.message import Message
from app.wire.events import SPACES
from app.wire.frames import text_frame
from app.wire.http1 import chunk

TEXT_END = b"\x1e"
"""Ends each text of an encoding for plain ASGI. A control character, so no JSON text contains it."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """One wire format: how a message becomes a text, and how a text is wrapped."""

    write: Callable[[str, str, Message], bytes]
    """Returns the text of a message, from the channel, the epoch and the message."""
    wrap: Callable[[bytes], bytes]
    """Returns a text as a frame, a chunk and so on; also for texts that are not messages, such as a gap."""

    def __call__(self, channel: str, epoch: str, messages: Sequence[Message]) -> bytes:
        """Return the encoded messages, joined."""
        write, wrap = self.write, self.wrap
        if len(messages) == 1:  # as most are
            message = messages[0]
            return wrap(write(channel, epoch, message)) if message.data else b""
        return b"".join([wrap(write(channel, epoch, message)) for message in messages if message.data])


_POSITIONS = frozenset({"position", "after", "next"})


def json_object(**members: Any) -> bytes:  # noqa: ANN401 — JSON
    """Return a JSON object, as UTF-8 without white space.

    Members that are None are left out, but for positions, which are then null: the backend has none.
    """
    present = {name: value for name, value in members.items() if value is not None or name in _POSITIONS}
    return json.dumps(present, ensure_ascii=False, separators=(",", ":")).encode()


def _with_end(text: bytes) -> bytes:
    return text + TEXT_END


def _as_it_is(text: bytes) -> bytes:
    return text


def _plain(_: str, __: str, message: Message) -> bytes:
    return message.data


def _v1(channel: str, epoch: str, message: Message) -> bytes:
    if not epoch:
        return b'{"type":"message","channel":"%b","position":null,"time":%d,"data":%b}' % (
            channel.encode(),
            message.time,
            message.data,
        )
    return b'{"type":"message","channel":"%b","position":"%b:%d","time":%d,"data":%b}' % (
        channel.encode(),
        epoch.encode(),
        message.offset,
        message.time,
        message.data,
    )


def _sse(_: str, epoch: str, message: Message) -> bytes:
    if not epoch:
        return b"data: %b\n\n" % message.data.translate(SPACES)
    return b"id: %b:%d\ndata: %b\n\n" % (epoch.encode(), message.offset, message.data.translate(SPACES))


PLAIN_FRAMES = Encoding(_plain, text_frame)
PLAIN_TEXTS = Encoding(_plain, _with_end)
V1_FRAMES = Encoding(_v1, text_frame)
V1_TEXTS = Encoding(_v1, _with_end)
SSE_CHUNKS = Encoding(_sse, chunk)
SSE_BARE = Encoding(_sse, _as_it_is)
