"""Request bodies: their media types, and the message data in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from app.core import data
from app.core.data import SHOWN
from app.core.errors import MalformedError, UnsupportedTypeError
from app.core.message import check_key
from app.core.scan import Members

JSON = "application/json"
TEXT = "text/plain"
FORM = "application/x-www-form-urlencoded"

UNTYPED = "*/*"
"""The type of a form that no page has sent: ``curl -d`` declares every body as a form."""

MEMBERS = frozenset({"channel", "message", "key"})
"""The members that an envelope may have."""

_ENOUGH = frozenset({"channel", "message"})

_OF_PAGES = frozenset({"origin", "referer", "sec-fetch-site"})
"""Headers that browsers send. A form from a browser stays a form: any site's page can make it send one."""

_OBJECT_OR_ARRAY = re.compile(rb"[ \t\n\r]*+[{\[]")
"""The beginning of a JSON object or array. A form cannot begin so: it escapes these brackets."""

BLANKS = r"[ \t\n\r]*+"
_STRING = r'"([^"\\\x00-\x1f]*+)"'

# What most envelopes have around their message: the channel before it, perhaps a key behind it, and no escapes.
BEFORE = re.compile(
    rf'{BLANKS}\{{{BLANKS}"channel"{BLANKS}:{BLANKS}{_STRING}{BLANKS},{BLANKS}"message"{BLANKS}:{BLANKS}'
)
_AFTER = re.compile(rf'(?:{BLANKS},{BLANKS}"key"{BLANKS}:{BLANKS}{_STRING})?{BLANKS}\}}{BLANKS}')

_LONGEST = 255
"""The most characters of a Content-Type."""


Envelope = tuple[str, bytes, str | None]
"""The name of a channel, a message for it as checked JSON text, and its idempotency key."""


def media_type(headers: Mapping[str, str]) -> str:
    """Return the media type, or :data:`UNTYPED` if only the body can tell; :func:`check_untyped` then looks at it.

    Raises :class:`UnsupportedTypeError` for a charset other than UTF-8, and for a compressed body.
    """
    coding = headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        msg = f"content encoding {coding[:SHOWN]!r} cannot be published: send the body uncompressed"
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
    """Do the same as :func:`as_data` for a body of any size."""
    check_untyped(kind, body)
    return await (data.read_text(body) if kind == TEXT else data.read(body))


def as_envelope(kind: str, body: bytes) -> Envelope:
    """Return a small envelope: a JSON object with a message and the name of its channel.

    Raises :class:`UnsupportedTypeError` and :class:`~app.core.errors.MalformedError`.
    """
    if kind == UNTYPED:
        check_untyped(kind, body)
    text = data.decode(body)
    return _plain_envelope(text) or envelope_of(data.members(text, MEMBERS))


def _plain_envelope(text: str) -> Envelope | None:
    """Return what :func:`envelope_of` does, for most envelopes; None for one that needs a closer look."""
    before = BEFORE.match(text)
    if before is None:
        return None
    begin = before.end()
    end = data.end_of_value(text, begin)
    if end is None:
        return None
    key = None
    if text[end:] != "}":
        after = _AFTER.fullmatch(text, end)
        if after is None:
            return None
        key = check_key(after[1])
    return before[1], text[begin:end].encode(), key


async def read_envelope(kind: str, body: bytes) -> Envelope:
    """Do the same as :func:`as_envelope` for a body of any size."""
    check_untyped(kind, body)
    return envelope_of(await data.read_members(body, MEMBERS))


def envelope_of(members: Members) -> Envelope:
    """Return the envelope with these members. Raises :class:`~app.core.errors.MalformedError`."""
    if members.keys() != _ENOUGH:
        for name in ("channel", "message"):
            if name not in members:
                msg = f'{name!r} is missing: send {{"channel": "…", "message": …}}'
                raise MalformedError(msg)
    key = check_key(data.string(members["key"], "'key'")) if "key" in members else None
    return data.string(members["channel"], "'channel'"), members["message"].encode(), key


def only_key(header: str | None, member: str | None) -> str | None:
    """Return the idempotency key of a push, which is a header or a member of its envelope; None if it has none."""
    if header is not None and member is not None:
        msg = "the push has an Idempotency-Key header and a 'key': send only one of them"
        raise MalformedError(msg)
    return header if member is None else member


def check_kind(kind: str) -> None:
    """Raise :class:`UnsupportedTypeError` unless a body of this media type can be a message."""
    if kind not in {JSON, TEXT, UNTYPED}:
        raise unsupported(kind, f"{JSON} or {TEXT}")


def check_json(kind: str) -> None:
    """Raise :class:`UnsupportedTypeError` unless a body of this media type can be JSON."""
    if kind not in {JSON, UNTYPED}:
        raise unsupported(kind, JSON)


def check_untyped(kind: str, body: bytes) -> None:
    """Raise :class:`UnsupportedTypeError` for an untyped body that is not a JSON object or array."""
    if kind == UNTYPED and not _OBJECT_OR_ARRAY.match(body):
        raise unsupported(FORM, JSON)


def unsupported(kind: str, expected: str) -> UnsupportedTypeError:
    """Return the error for a media type that is not ``expected``."""
    return UnsupportedTypeError(f"content type {kind[:SHOWN] or '(none)'!r} cannot be published: send {expected}")
