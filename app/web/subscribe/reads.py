"""``GET`` requests for a channel: an event stream, or its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.channel import Registry
from app.core.delivery.hub import Hub
from app.core.errors import AbideError
from app.core.limits.places import Places
from app.core.ports import Source
from app.web.edge.access import LINE, Line
from app.web.edge.auth import Authenticator, for_connection
from app.web.edge.caller import Callers, see_scope
from app.web.edge.cors import Cors, origin_of
from app.web.edge.known_callers import KnownCallers
from app.web.edge.problems import ProblemResponse, describe
from app.web.edge.request import TICKET, by_name, query_of
from app.web.subscribe import sse
from app.web.subscribe.history import HistoryReader

HISTORY = "/history"
"""The end of the path of a channel's history."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StreamHead:
    """The parsed request head of an event stream, but for its query. It depends on the bytes alone: it is remembered.

    It does not say who the caller is, because keys are revoked and tokens expire.
    """

    path: str
    """Without the root path."""
    callers: Callers
    """What the head shows of its caller, but for a ticket."""
    last_event: str | None
    """The value of Last-Event-ID."""
    origin: bytes | None
    """The origin of the page that sent the request; None if no page did."""

    @classmethod
    def of(cls, path: str, headers: Sequence[tuple[bytes, bytes]]) -> StreamHead | None:
        """Parse the head of a request; None if it asks for no event stream, or cannot be read."""
        try:
            named = by_name(headers)
        except AbideError:
            return None
        if not sse.is_wanted(named):
            return None
        return cls(path, Callers.of(named), named.get("last-event-id"), origin_of(headers))


class Reads:
    """An ASGI application for ``GET`` and ``HEAD`` of ``/{channel}`` and ``/{channel}/history``."""

    def __init__(
        self, registry: Registry, authenticator: Authenticator, hub: Hub, source: Source, places: Places
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._hub = hub
        self._callers = KnownCallers(authenticator)
        self._places = places
        self._history = HistoryReader(hub, source, places)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request for a channel, or for its history."""
        try:
            response = await self._answer(scope, receive, send)
        except AbideError as error:
            response = ProblemResponse.of(error)
        except Exception:  # noqa: BLE001 — a bug is answered as a problem too
            _log.exception("read_failed")
            self._hub.meter.failed("request")
            response = ProblemResponse.of(AbideError("the server failed to answer; its log says why"))
        if response is not None:
            await response(scope, receive, send)

    def admit(  # noqa: PLR0913, PLR0917 — what may differ between requests of one head
        self,
        head: StreamHead,
        query: bytes,
        bearer: bytes | None,
        last_event: bytes | None,
        client: str | None,
        cors: Cors,
    ) -> sse.StreamAdmission | None:
        """Admit a reader of an event stream as over ASGI, but without waiting; what is given replaces what it has.

        Returns None if that has to wait, and if it is refused: ASGI decides then.
        """
        name = head.path[1:]
        channel = self._registry.get(name)
        if channel is None or self._authenticator.asks or not self._places.has_room(client):
            return None
        try:
            asked = query_of(query)
            identity = self._callers.identify(head.callers, asked, bearer, client)
            if identity is None or channel.check_subscribe(name, identity) is not None:
                return None
            resumed = head.last_event if last_event is None else last_event.decode("ascii")
            request = sse.StreamRequest.of(name, identity, resumed, asked)
            line = Line("request", head.path, "GET", client)
            admission = sse.admit(self._hub, request, line, cors.added(head.origin))
        except Exception:  # noqa: BLE001 — a refusal; or a bug, which ASGI meets again, and reports
            return None
        if admission is not None:
            line.take_place(self._places)
        return admission

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> ASGIApp | None:
        """Return the response; None if it was an event stream, which is already sent or handed over."""
        headers, query = by_name(scope["headers"]), query_of(scope["query_string"])
        caller = see_scope(scope, headers, query.get(TICKET))
        identity = for_connection(await self._authenticator.identify(caller), caller)
        path = get_route_path(scope)
        name = path.removeprefix("/").removesuffix(HISTORY)
        channel = self._registry.find(name)
        if not path.endswith(HISTORY) and not sse.is_wanted(headers):
            return ProblemResponse(describe("not_acceptable", "Not acceptable", _not_acceptable(scope["path"])))
        identity = await self._authenticator.admitted(channel.check_subscribe(name, identity), identity)
        if path.endswith(HISTORY):
            return await self._history.answer(name, channel, identity, query, scope, receive)
        if scope["method"] == "HEAD":
            return Response(media_type=sse.MEDIA_TYPE)
        scope[LINE].take_place(self._places)
        await sse.stream(
            self._hub, sse.StreamRequest.of(name, identity, headers.get("last-event-id"), query), scope, receive, send
        )
        return None


def _not_acceptable(path: str) -> str:
    return (
        f"{path} is for subscribers: connect a WebSocket, or send 'Accept: {sse.MEDIA_TYPE}'; "
        f"read stored messages from {path}{HISTORY}"
    )
