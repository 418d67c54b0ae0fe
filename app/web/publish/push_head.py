"""What the request head of a push says, whoever has sent it and whenever: it may be remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.core.channel import Caller
from app.core.errors import AbideError, bare, of_bug
from app.core.message import check_key
from app.web.edge.auth import see
from app.web.edge.cors import origin_of
from app.web.edge.loopback import is_here
from app.web.edge.request import by_name
from app.web.publish import body

ENVELOPED, NAMED = "/push", "/push/"
"""The path of pushes whose body names the channel, and how others begin."""

_HERE = "127.0.0.1"


class PushHead(NamedTuple):
    """A parsed head. It says nothing of who the caller is: keys are revoked, and tokens expire."""

    path: str
    """Without the root path."""
    channel: str | None
    """The name in the path; None where the body names the channel."""
    origin: bytes | None
    """Of the page that asks."""
    caller: Caller = Caller()
    """What the caller shows."""
    caller_here: Caller = Caller()
    """The same, if the request comes from this machine."""
    kind: str = ""
    """The body's media type."""
    key: str | None = None
    """The idempotency key of the one message."""
    length: int = 0
    """Bytes of the body by Content-Length; 0 where it is not announced."""
    unreadable: AbideError | None = None
    """Why the headers cannot be read."""
    unfit: AbideError | None = None
    """Why no body can be published with these headers; only who may publish is told."""

    @classmethod
    def of(cls, path: str, headers: Sequence[tuple[bytes, bytes]]) -> PushHead:
        """Parse the head of a ``POST`` to a :func:`push path <is_push>`; never raises."""
        channel = None if path == ENVELOPED else path.removeprefix(NAMED)
        head = cls(path, channel, origin_of(headers))
        try:
            named = by_name(headers)
            head = head._replace(caller=see(named, None), caller_here=see(named, _HERE), length=_length(named))
        except AbideError as error:
            return head._replace(unreadable=bare(error))
        except Exception as error:  # noqa: BLE001 — a bug is told where the push is decided
            return head._replace(unreadable=of_bug(error))
        try:
            kind = body.media_type(named)
            key = check_key(named.get("idempotency-key"))
            (body.check_json if channel is None else body.check_kind)(kind)
        except AbideError as error:
            return head._replace(unfit=bare(error))
        return head._replace(kind=kind, key=key)

    def caller_from(self, peer: str | None) -> Caller:
        """Return what the caller shows where the request comes from this address; None where that is not known."""
        return self.caller_here if self.caller_here.is_near and peer is not None and is_here(peer) else self.caller


def is_push(path: str) -> bool:
    """Whether a ``POST`` to this path is a push."""
    return path == ENVELOPED or path.startswith(NAMED)


def _length(headers: dict[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length[:20]) if length.isascii() and length.isdigit() else 0
