"""Request bodies: of which type they are, and what message data they become."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from app.core import data
from app.core.data import SHOWN
from app.core.errors import UnsupportedTypeError
from app.core.scan import Members

JSON = "application/json"
TEXT = "text/plain"
FORM = "application/x-www-form-urlencoded"

UNTYPED = "*/*"
"""The type of a form where no page has sent it: curl -d says so of whatever it sends."""

MEMBERS = frozenset({"channel", "message", "key"})
"""What an envelope may have."""

_OF_PAGES = frozenset({"origin", "referer", "sec-fetch-site"})
"""What browsers send. Theirs is taken at its word: a page of any site may have a form sent, unasked."""

_OBJECT_OR_ARRAY = re.compile(rb"[ \t\n\r]*+[{\[]")
"""How JSON that is no form begins: a form has ``%7B`` and ``%5B`` for these brackets."""

_LONGEST = 255
"""Characters of a Content-Type, at most."""


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type; :data:`UNTYPED` where it says nothing, and :func:`check_untyped` is to look at the body.

    Raises :class:`UnsupportedTypeError` for a charset other than UTF-8, and for a body that is compressed.
    """
    coding = headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        msg = f"content encoding {coding[:SHOWN]!r} cannot be published: send the body as it is"
        raise UnsupportedTypeError(msg)
    header = headers.get("content-type", "")
    if len(header) > _LONGEST:
        raise unsupported(header, f"{JSON} or {TEXT}")
    kind = _media_type(header)
    return UNTYPED if kind == FORM and _OF_PAGES.isdisjoint(headers) else kind


@lru_cache(maxsize=64)  # there are few, and each comes again and again
def _media_type(header: str) -> str:
    kind, *parameters = [part.strip().lower() for part in header.split(";")]
    charsets = [value.strip("\"'") for name, _, value in (p.partition("=") for p in parameters) if name == "charset"]
    if any(charset not in ("utf-8", "utf8") for charset in charsets):
        msg = f"charset {charsets[0][:SHOWN]!r} cannot be published: send UTF-8"
        raise UnsupportedTypeError(msg)
    return kind


def as_data(kind: str, body: bytes) -> bytes:
    """Return a small body as message data: JSON as it is, text as a JSON string.

    Raises :class:`UnsupportedTypeError` and :class:`~app.core.errors.MalformedError`.
    """
    check_untyped(kind, body)
    return data.from_text(body) if kind == TEXT else data.check_bytes(body)


async def read_data(kind: str, body: bytes) -> bytes:
    """As :func:`as_data`, for a body of any size."""
    check_untyped(kind, body)
    return await (data.read_text(body) if kind == TEXT else data.read(body))


def as_envelope(kind: str, body: bytes) -> Members:
    """Return the members of a small envelope: a JSON object with a message and its channel's name.

    Raises :class:`UnsupportedTypeError` and :class:`~app.core.errors.MalformedError`.
    """
    check_untyped(kind, body)
    return data.members(data.decode(body), MEMBERS)


async def read_envelope(kind: str, body: bytes) -> Members:
    """As :func:`as_envelope`, for a body of any size."""
    check_untyped(kind, body)
    return await data.read_members(body, MEMBERS)


def check_kind(kind: str) -> None:
    """Raise :class:`UnsupportedTypeError` unless a body of this media type can be a message."""
    if kind not in {JSON, TEXT, UNTYPED}:
        raise unsupported(kind, f"{JSON} or {TEXT}")


def check_json(kind: str) -> None:
    """Raise :class:`UnsupportedTypeError` unless a body of this media type can be JSON."""
    if kind not in {JSON, UNTYPED}:
        raise unsupported(kind, JSON)


def check_untyped(kind: str, body: bytes) -> None:
    """Raise :class:`UnsupportedTypeError` for an untyped body that is no JSON object or array."""
    if kind == UNTYPED and not _OBJECT_OR_ARRAY.match(body):
        raise unsupported(FORM, JSON)


def unsupported(kind: str, expected: str) -> UnsupportedTypeError:
    """Return the error for a media type that is not ``expected``."""
    return UnsupportedTypeError(f"content type {kind[:SHOWN] or '(none)'!r} cannot be published: send {expected}")
