"""WebSocket handshakes: which are admitted, in which form; and ``/echo``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial

from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.types import Receive, Scope, Send

from app.core.channel import Registry
from app.core.delivery import encodings
from app.core.delivery.encodings import Encoding
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, MalformedError
from app.core.limits.limiter import Limiter
from app.core.ports import FANOUT, Handover, Heartbeat, Peer, Publisher
from app.core.resume import Beginning, Start
from app.core.rights.policy import Identity
from app.web.edge.access import LINE, Line
from app.web.edge.auth import Authenticator, for_connection
from app.web.edge.caller import see_scope
from app.web.edge.doors import Doors
from app.web.edge.problems import ProblemResponse
from app.web.edge.request import TICKET, by_name, query_of
from app.web.subscribe import heartbeat
from app.web.subscribe.asgi_writer import serve_websocket
from app.web.subscribe.plain import PlainSocket
from app.web.subscribe.v1 import SUBPROTOCOL, V1Socket
from app.wire.close_codes import CloseCode

MANY, ECHO = "/ws", "/echo"
"""The path of sockets for any number of channels, and of those that answer what they are sent."""

MAX_ECHO = 4096
"""The most bytes of a message that ``/echo`` answers."""

HEARTBEAT_SECONDS = 20.0
"""The longest time between two heartbeats: as often as the server pings."""


@dataclass(frozen=True, slots=True)
class _Admission:
    """A handshake that was admitted."""

    name: str | None
    """The channel's, or None on ``/ws``."""
    identity: Identity
    speaks_v1: bool
    query: dict[str, str]
    handover: Handover | None
    line: Line

    @property
    def encoding(self) -> Encoding:
        if self.speaks_v1:
            return encodings.V1_TEXTS if self.handover is None else encodings.V1_FRAMES
        return encodings.PLAIN_TEXTS if self.handover is None else encodings.PLAIN_FRAMES

    @property
    def heartbeat(self) -> Heartbeat | None:
        return _beat(self.encoding) if heartbeat.is_wanted(self.query) else None


class Sockets:
    """The ASGI application for WebSockets: admits each handshake, and passes the connection to its form."""

    def __init__(  # noqa: PLR0913, PLR0917 — what a handshake and its connection use
        self,
        registry: Registry,
        authenticator: Authenticator,
        doors: Doors,
        hub: Hub,
        publisher: Publisher,
        limiter: Limiter,
    ) -> None:
        self._registry = registry
        self._doors = doors
        self._authenticator = authenticator
        self._hub = hub
        self._publisher = publisher
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one handshake; a refusal before the upgrade is an HTTP response with a status."""
        await receive()  # websocket.connect
        try:
            scope[LINE].take_place(self._limiter.places)
            query = query_of(scope["query_string"])
            caller = see_scope(scope, by_name(scope["headers"]), query.get(TICKET))
            identity = for_connection(await self._authenticator.identify(caller), caller)
            if get_route_path(scope) == ECHO:
                identity.check()
                await _echo(receive, send)
                return
            request = await self._admit(scope, query, identity)
            opened = await self._open(request)
        except AbideError as error:
            await ProblemResponse.of(error)(scope, receive, send)
            return
        await self._serve(request, opened, receive, send)

    async def _admit(self, scope: Scope, query: dict[str, str], identity: Identity) -> _Admission:
        path = get_route_path(scope)
        name = None if path == MANY else path[1:]
        speaks_v1 = SUBPROTOCOL in scope["subprotocols"]
        if name is not None:
            question = self._registry.find(name).check_subscribe(name, identity)
            identity = await self._authenticator.admitted(question, identity)
        elif not self._authenticator.asks:
            identity.check()
        if name is None and not speaks_v1:
            msg = f"{scope['path']} speaks only {SUBPROTOCOL}: ask for it in Sec-WebSocket-Protocol"
            raise MalformedError(msg)
        if heartbeat.is_wanted(query) and not speaks_v1:
            msg = f"a plain socket carries nothing but messages: 'heartbeat' needs {SUBPROTOCOL}"
            raise MalformedError(msg)
        handover = scope.get("extensions", {}).get(FANOUT)
        return _Admission(name, identity, speaks_v1, query, handover, scope[LINE])

    async def _open(self, request: _Admission) -> tuple[Subscription, Beginning] | None:
        """Open the subscription of the path; return None for ``/ws``, which starts without one."""
        start = Start.parse(request.query.get("since"), request.query.get("last"))
        if request.name is None:
            if not start.is_head:
                msg = "a socket for several channels takes no 'since' or 'last': send them with each subscribe"
                raise MalformedError(msg)
            return None
        return await self._hub.subscribe(request.name, request.identity, request.encoding, start, has_connection=True)

    async def _serve(
        self, request: _Admission, opened: tuple[Subscription, Beginning] | None, receive: Receive, send: Send
    ) -> None:
        """Hand the connection over if the server can take it; otherwise serve it over ASGI to its end."""
        try:
            subprotocol = SUBPROTOCOL if request.speaks_v1 else None
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        except BaseException:
            if opened is not None:
                self._hub.unsubscribe(opened[0])
            raise
        request.line.kept = True
        begin = partial(self._begin, request, opened)
        if request.handover is not None:
            begin(request.handover)
        else:
            await serve_websocket(begin, receive, send)

    def _begin(self, request: _Admission, opened: tuple[Subscription, Beginning] | None, handover: Handover) -> Peer:
        """Create the connection's peer, connect it to its writer, and let it begin."""
        if request.speaks_v1:
            session = V1Socket(
                self._hub,
                self._doors,
                self._publisher,
                self._limiter,
                request.identity,
                request.line,
                request.encoding,
                request.name,
            )
            writer = handover(session, request.heartbeat)
            if request.heartbeat is not None:  # the first one says when to expect the next
                writer.write(request.heartbeat.data)
            session.begin(writer, *(opened or (None, None)))
            self._hub.admit(session)
            return session
        assert opened is not None  # noqa: S101 — only /ws has none, and /ws speaks abide.v1
        subscription, where = opened
        plain = PlainSocket(
            self._hub, self._doors, self._publisher, self._limiter, request.identity, request.line, subscription
        )
        plain.begin(handover(plain), where)
        self._hub.admit(plain)
        return plain


@cache
def _beat(encoding: Encoding) -> Heartbeat:
    return Heartbeat(encoding.wrap(heartbeat.text(HEARTBEAT_SECONDS)), HEARTBEAT_SECONDS)


async def _echo(receive: Receive, send: Send) -> None:
    """Answer each message with itself, for checking a connection."""
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        size = len(event["bytes"]) if text is None else len(text.encode())
        if size > MAX_ECHO:
            reason = f"/echo answers messages of at most {MAX_ECHO} bytes"
            await send({"type": "websocket.close", "code": CloseCode.TOO_BIG, "reason": reason})
            return
        await send({**event, "type": "websocket.send"})
