"""Server-Sent Events as bytes (WHATWG HTML §9.2)."""

from __future__ import annotations

SPACES = bytes.maketrans(b"\r\n", b"  ")
"""Translates line breaks, which end the fields of an event."""


def event(name: str | None, position: str | None, data: bytes) -> bytes:
    """Return a Server-Sent Event. Line breaks become spaces: JSON has them only between tokens."""
    lines = b"" if name is None else b"event: %b\n" % name.encode()
    if position is not None:
        lines += b"id: %b\n" % position.encode()
    return lines + b"data: %b\n\n" % data.translate(SPACES)
