"""Wire formats: messages as the bytes that subscribers get, made once and shared by all of them."""

from __future__ import annotations

from collections.abc import Iterable

from app.core.message import Message

_FIN_TEXT = 0x81
_SHORT = 126
_MEDIUM = 1 << 16


def text_frame(data: bytes) -> bytes:
    """Return ``data`` as one unfragmented, unmasked WebSocket text frame (RFC 6455 §5.2)."""
    size = len(data)
    if size < _SHORT:
        return bytes((_FIN_TEXT, size)) + data
    if size < _MEDIUM:
        return b"\x81\x7e" + size.to_bytes(2, "big") + data
    return b"\x81\x7f" + size.to_bytes(8, "big") + data


def plain(messages: Iterable[Message]) -> bytes:
    """Return messages in the plain WebSocket form: a text frame each, one after the other."""
    return b"".join([text_frame(message.data) for message in messages])
