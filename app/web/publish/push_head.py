"""The parsed request head of a push. It depends on nothing but the head's bytes, so it may be remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.core.errors import AbideError, bare, of_bug
from app.core.message import check_key
from app.core.rights.policy import NOBODY, Caller
from app.web.edge.caller import see
from app.web.edge.cors import origin_of
from app.web.edge.loopback import is_loopback
from app.web.edge.request import TICKET, by_name, query_of
from app.web.publish import body

ENVELOPED, NAMED = "/push", "/push/"
"""The path of pushes whose body names the channel, and the prefix of the paths that name it themselves."""

_HERE = "127.0.0.1"


@dataclass(frozen=True, slots=True, eq=False)
class PushHead:
    """A parsed head. It does not say who the caller is, because keys are revoked and tokens expire."""

    path: str
    """Without the root path."""
    channel: str | None
    """The name in the path; None if the body names the channel."""
    origin: bytes | None
    """The origin of the page that sent the request."""
    unreadable: AbideError | None = None
    """Why the headers cannot be read; the fields below then have their defaults."""
    caller: Caller = NOBODY
    """The caller's credentials."""
    length: int = 0
    """Bytes of the body by Content-Length; 0 if the head has none."""
    unfit: AbideError | None = None
    """Why no body can be published with these headers; only a caller who may publish is told."""
    kind: str = ""
    """The body's media type."""
    key: str | None = None
    """The idempotency key in the header."""
    here: PushHead | None = None
    """The same head if the request comes from this machine; None if that makes no difference."""

    @classmethod
    def of(cls, path: str, headers: Sequence[tuple[bytes, bytes]], query: bytes = b"") -> PushHead:
        """Parse the head of a ``POST`` to a :func:`push path <is_push>`; never raises."""
        channel = None if path == ENVELOPED else path.removeprefix(NAMED)
        origin = origin_of(headers)
        try:
            named = by_name(headers)
            unfit, kind, key = _fitness(named, is_enveloped=channel is None)
            ticket = query_of(query).get(TICKET) if TICKET.encode() in query else None
            caller, caller_here = see(named, None, ticket=ticket), see(named, _HERE, ticket=ticket)
        except AbideError as error:
            return cls(path, channel, origin, bare(error))
        except Exception as error:  # noqa: BLE001 — Push.refuse logs a bug
            return cls(path, channel, origin, of_bug(error))
        head = cls(path, channel, origin, None, caller, _length(named), unfit, kind, key)
        return replace(head, here=replace(head, caller=caller_here)) if caller_here.is_near else head

    def seen_from(self, peer: str | None) -> PushHead:
        """Return the head of a request from this address; None if it is unknown.

        It does not name the address itself: most requests need no more, and share one object.
        """
        return self if self.here is None or peer is None or not is_loopback(peer) else self.here


def is_push(path: str) -> bool:
    """Whether a ``POST`` to this path is a push."""
    return path == ENVELOPED or path.startswith(NAMED)


def _fitness(headers: Mapping[str, str], *, is_enveloped: bool) -> tuple[AbideError | None, str, str | None]:
    """Return why no body can be published with these headers, its media type and the idempotency key."""
    try:
        kind = body.media_type(headers)
        key = check_key(headers.get("idempotency-key"))
        (body.check_json if is_enveloped else body.check_kind)(kind)
    except AbideError as error:
        return bare(error), "", None
    return None, kind, key


def _length(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length[:20]) if length.isascii() and length.isdigit() else 0
