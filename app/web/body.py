"""Request bodies: read up to a limit, turned into message data."""

from __future__ import annotations

from fastapi import Request

from app.core import data
from app.core.errors import TooLargeError, UnsupportedTypeError


async def read(request: Request, limit: int) -> bytes:
    """Return the body; raise :class:`TooLargeError` as soon as it is known to exceed ``limit`` bytes."""
    if int(request.headers.get("content-length", "0")) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def media_type(request: Request) -> str:
    """Return the media type; raise :class:`UnsupportedTypeError` for a charset other than UTF-8."""
    header = request.headers.get("content-type", "")
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


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is over the limit of {limit} bytes")
