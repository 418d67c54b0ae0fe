"""What a request shows of its caller: a credential, where it comes from, and which page sent it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.access.tokens import digest_of
from app.core.rights.policy import NOBODY, Caller
from app.web.edge.loopback import OTHER_SITES, is_forwarded, is_here, is_loopback, is_near
from app.web.edge.origins import is_own
from app.web.edge.request import by_name

BEARER = "bearer."
"""How a WebSocket subprotocol with a token begins: browsers can send no Authorization with a handshake."""

_HERE = "127.0.0.1"

_LONGEST_ORIGIN = 300
"""How many characters of an origin are kept: more than a scheme, a host name and a port have."""


def see(
    headers: Mapping[str, str], peer: str | None, *, protocols: Sequence[str] = (), ticket: str | None = None
) -> Caller:
    """Return what a request shows of its caller.

    Names of ``headers`` are in lower case; ``peer`` is the address that the connection comes from, None if it is not
    known; ``protocols`` are the subprotocols of a WebSocket.
    """
    origin, host = headers.get("origin"), headers.get("host", "")
    bearer = _bearer(headers.get("authorization", ""), protocols)
    own = origin is not None and is_own(origin, host)
    return Caller(
        None if bearer is None else digest_of(bearer),
        is_near(headers, peer),
        None if origin is None else origin[:_LONGEST_ORIGIN],
        is_own=own,
        is_elsewhere=own and not is_here(host) and not is_forwarded(headers),
        is_cross_site=origin is None and headers.get("sec-fetch-site", "").lower() in OTHER_SITES,
        bearer=bearer,
        ticket=ticket if bearer is None else None,
        headers=headers,
        client=peer,
    )


class Callers(NamedTuple):
    """The callers that one request head may have: one on this machine, and one elsewhere.

    It depends on the head alone, so it is remembered with it. It does not name addresses, so callers from many of them
    share it.
    """

    elsewhere: Caller = NOBODY
    here: Caller = NOBODY
    kept_elsewhere: Caller = NOBODY
    """The same without the credentials, for connections that have a token."""
    kept_here: Caller = NOBODY

    @classmethod
    def of(cls, headers: Mapping[str, str], protocols: Sequence[str] = ()) -> Callers:
        """Return those of a request head; its query may have a ticket, which is none of them."""
        here = see(headers, _HERE, protocols=protocols)._replace(client=None)
        elsewhere = here._replace(is_near=False) if here.is_near else here
        kept = without_secrets(here)._replace(digest=None)
        return cls(elsewhere, here, kept._replace(is_near=False) if here.is_near else kept, kept)

    def at(self, peer: str | None) -> tuple[Caller, Caller]:
        """Return the caller of a request from this address, None if it is unknown; and what is kept of it."""
        if self.here.is_near and peer is not None and is_loopback(peer):
            return self.here, self.kept_here
        return self.elsewhere, self.kept_elsewhere


NO_CALLERS = Callers()


def see_scope(scope: Scope, headers: Mapping[str, str], ticket: str | None = None) -> Caller:
    """Return what a request or a handshake over ASGI shows of its caller."""
    return see(headers, peer(scope), protocols=scope.get("subprotocols", ()), ticket=ticket)


def see_request(request: HTTPConnection) -> Caller:
    """Return what a request for a page shows of its caller."""
    return see_scope(request.scope, by_name(request.scope["headers"]))


def with_bearer(caller: Caller, bearer: str) -> Caller:
    """Return a caller with another bearer credential, which takes precedence over a ticket."""
    return Caller(
        digest_of(bearer), caller.is_near, caller.origin, caller.is_own, caller.is_elsewhere, caller.is_cross_site,
        bearer, None, caller.client, caller.headers,
    )  # fmt: skip


def without_secrets(caller: Caller) -> Caller:
    """Return a caller as its connection keeps it."""
    return Caller(
        caller.digest, caller.is_near, caller.origin, caller.is_own, caller.is_elsewhere, caller.is_cross_site,
        None, None, caller.client,
    )  # fmt: skip


def peer(scope: Scope) -> str | None:
    """Return the address that a request comes from; None if it is not known, or may be a proxy's.

    A request with HTTP/1.0 may come from a proxy: nginx sends that version unless it is configured otherwise.
    """
    client = scope.get("client")
    return client[0] if client and scope.get("http_version") != "1.0" else None


def _bearer(authorization: str, protocols: Sequence[str]) -> str | None:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return next((protocol[len(BEARER) :] for protocol in protocols if protocol.startswith(BEARER)), None)
