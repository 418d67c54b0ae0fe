"""Request bodies: of which type they are, and what message data they become."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from app.core import data
from app.core.data import SHOWN
from app.core.errors import UnsupportedTypeError

JSON = "application/json"
TEXT = "text/plain"

_LONGEST = 255
"""Characters of a Content-Type, at most."""


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type.

    Raises :class:`UnsupportedTypeError` for a charset other than UTF-8, and for a body that is compressed.
    """
    coding = headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        msg = f"content encoding {coding[:SHOWN]!r} cannot be published: send the body as it is"
        raise UnsupportedTypeError(msg)
    header = headers.get("content-type", "")
    if len(header) > _LONGEST:
        raise unsupported(header, f"{JSON} or {TEXT}")
    return _media_type(header)


@lru_cache(maxsize=64)  # there are few, and each comes again and again
def _media_type(header: str) -> str:
    kind, *parameters = [part.strip().lower() for part in header.split(";")]
    charsets = [value.strip("\"'") for name, _, value in (p.partition("=") for p in parameters) if name == "charset"]
    if any(charset not in ("utf-8", "utf8") for charset in charsets):
        msg = f"charset {charsets[0][:SHOWN]!r} cannot be published: send UTF-8"
        raise UnsupportedTypeError(msg)
    return kind


def as_data(kind: str, body: bytes) -> bytes:
    """Return a small body as message data: JSON as it stands, text as a JSON string.

    Raises :class:`UnsupportedTypeError` and :class:`~app.core.errors.MalformedError`.
    """
    check_kind(kind)
    return data.check_bytes(body) if kind == JSON else data.from_text(body)


async def read_data(kind: str, body: bytes) -> bytes:
    """As :func:`as_data`, for a body of any size."""
    check_kind(kind)
    return await (data.read(body) if kind == JSON else data.read_text(body))


def check_kind(kind: str) -> None:
    """Raise :class:`UnsupportedTypeError` unless a body of this media type can be a message."""
    if kind not in {JSON, TEXT}:
        raise unsupported(kind, f"{JSON} or {TEXT}")


def unsupported(kind: str, expected: str) -> UnsupportedTypeError:
    """Return the error for a media type that is not ``expected``."""
    return UnsupportedTypeError(f"content type {kind[:SHOWN] or '(none)'!r} cannot be published: send {expected}")
