"""``GET`` requests for a channel: an event stream, or its history."""

from __future__ import annotations

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
from app.web.edge.caller import see, see_scope
from app.web.edge.cors import Cors, origin_of
from app.web.edge.problems import ProblemResponse, describe
from app.web.edge.request import TICKET, by_name, query_of
from app.web.subscribe import sse
from app.web.subscribe.history import HistoryReader
from app.wire.request_head import RequestHead

HISTORY = "/history"
"""The end of the path of a channel's history."""

_log = structlog.get_logger(__name__)


class Reads:
    """An ASGI application for ``GET`` and ``HEAD`` of ``/{channel}`` and ``/{channel}/history``."""

    def __init__(
        self, registry: Registry, authenticator: Authenticator, hub: Hub, source: Source, places: Places
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._hub = hub
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

    def admit(self, path: str, head: RequestHead, client: str | None, cors: Cors) -> sse.StreamAdmission | None:
        """Admit a reader of an event stream as over ASGI, but without waiting.

        Returns None if that has to wait, if it is refused, and for any other request: ASGI decides then.
        """
        name = path[1:]
        channel = self._registry.get(name)
        if channel is None or self._authenticator.asks or not self._places.has_room(client):
            return None
        try:
            headers, query = by_name(head.headers), query_of(head.target.query)
            if not sse.is_wanted(headers):
                return None
            caller = see(headers, client, ticket=query.get(TICKET))
            identity = self._authenticator.authenticate(caller)
            if identity is None:
                return None
            if channel.check_subscribe(name, identity) is not None:
                return None
            request = sse.StreamRequest.of(name, for_connection(identity, caller), headers, query)
            line = Line("request", path, "GET", client)
            admission = sse.admit(self._hub, request, line, cors.added(origin_of(head.headers)))
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
        await sse.stream(self._hub, sse.StreamRequest.of(name, identity, headers, query), scope, receive, send)
        return None


def _not_acceptable(path: str) -> str:
    return (
        f"{path} is for subscribers: connect a WebSocket, or send 'Accept: {sse.MEDIA_TYPE}'; "
        f"read stored messages from {path}{HISTORY}"
    )
