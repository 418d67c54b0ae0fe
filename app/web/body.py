"""Request bodies: of which type they are, and what message data they become."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from app.core import data
from app.core.errors import UnsupportedTypeError


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type; raise :class:`UnsupportedTypeError` for a charset other than UTF-8."""
    return _media_type(headers.get("content-type", ""))


@lru_cache(maxsize=64)  # there are few, and each comes again and again
def _media_type(header: str) -> str:
    kind, *parameters = [part.strip().lower() for part in header.split(";")]
    charsets = [value.strip("\"'") for name, _, value in (p.partition("=") for p in parameters) if name == "charset"]
    if any(charset not in ("utf-8", "utf8") for charset in charsets):
        msg = f"charset {charsets[0]!r} cannot be published: send UTF-8"
        raise UnsupportedTypeError(msg)
    return kind


def as_data(kind: str, body: bytes) -> bytes:
    """Return a body as message data: JSON as it stands, text as a JSON string.

    Raises :class:`UnsupportedTypeError` and :class:`~app.core.errors.MalformedError`.
    """
    match kind:
        case "application/json":
            return data.check_bytes(body)
        case "text/plain":
            return data.from_text(body)
        case _:
            raise unsupported(kind, "application/json or text/plain")


def unsupported(kind: str, expected: str) -> UnsupportedTypeError:
    """Return the error for a media type that is not ``expected``."""
    return UnsupportedTypeError(f"content type {kind or '(none)'!r} cannot be published: send {expected}")
