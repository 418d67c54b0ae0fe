"""WebSocket handshakes: which are admitted, in which form; and ``/echo``."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cache, partial
from typing import NamedTuple

from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.types import Receive, Scope, Send

from app.core.channel import Channel, Registry
from app.core.delivery import encodings
from app.core.delivery.encodings import Encoding
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, of_bug
from app.core.limits.limiter import Limiter
from app.core.ports import FANOUT, Handover, Heartbeat, Peer, Publisher, Reply
from app.core.resume import Beginning
from app.core.rights.policy import Identity
from app.web.edge.access import LINE, Line
from app.web.edge.auth import Authenticator, for_connection
from app.web.edge.caller import peer, with_bearer
from app.web.edge.doors import Doors
from app.web.edge.problems import ProblemResponse
from app.web.edge.request import TICKET, are_short, query_of
from app.web.subscribe import heartbeat
from app.web.subscribe.asgi_writer import serve_websocket
from app.web.subscribe.guard import report
from app.web.subscribe.plain import PlainSocket
from app.web.subscribe.socket_head import ECHO, SocketHead
from app.web.subscribe.v1 import SUBPROTOCOL, V1Socket
from app.wire.close_codes import CloseCode

MAX_ECHO = 4096
"""The most bytes of a message that ``/echo`` answers."""

_MOST_KNOWN = 1000
"""The most identities that are remembered by their heads."""

HEARTBEAT_SECONDS = 20.0
"""The longest time between two heartbeats: as often as the server pings."""


class Admission(NamedTuple):
    """A handshake that was admitted. It is the :class:`~app.core.ports.Admitted` of one past ASGI."""

    sockets: Sockets
    name: str | None
    """The channel's, or None on ``/ws``."""
    identity: Identity
    speaks_v1: bool
    wants_heartbeat: bool
    encoding: Encoding
    line: Line
    opened: tuple[Subscription, Beginning] | None
    """The subscription of the path; None on ``/ws``, which starts without one."""
    is_judged: bool
    """Whether the caller was judged in this turn of the event loop."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that is accepted."""
        return SUBPROTOCOL if self.speaks_v1 else None

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The heartbeat; None if none is wanted."""
        return _beat(self.encoding) if self.wants_heartbeat else None

    def begin(self, handover: Handover) -> None:
        """Create the connection's peer, connect it to its writer, and let it begin."""
        self.line.kept = True
        self.sockets.begin(self, handover)


class Sockets:
    """The ASGI application for WebSockets: admits each handshake, and passes the connection to its form.

    A handshake that can be decided at once need not come by ASGI: :meth:`admit`.
    """

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
        self._known: dict[tuple[SocketHead, bool], Identity] = {}
        """Who sends these heads, where that changes only with the settings."""

    # Over ASGI.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one handshake; a refusal before the upgrade is an HTTP response with a status."""
        await receive()  # websocket.connect
        try:
            scope[LINE].take_place(self._limiter.places)
            query = query_of(scope["query_string"])
            head = SocketHead.of(get_route_path(scope), scope["path"], scope["headers"], scope["subprotocols"])
            if head.unreadable is not None:
                raise copy(head.unreadable)  # the head is remembered, and keeps no traceback
            identity = await self._identify(head, query, peer(scope))
            if head.path == ECHO:
                identity.check()
                await _echo(receive, send)
                return
            handover: Handover | None = scope.get("extensions", {}).get(FANOUT)
            admission = await self._admit(head, query, identity, scope[LINE], is_detached=handover is not None)
        except AbideError as error:
            await ProblemResponse.of(error)(scope, receive, send)
            return
        await self._serve(admission, handover, receive, send)

    async def _identify(self, head: SocketHead, query: Mapping[str, str], client: str | None) -> Identity:
        caller = head.callers.at(client)[0]._replace(client=client)
        if caller.bearer is None:
            caller = caller._replace(ticket=query.get(TICKET))
        return for_connection(await self._authenticator.identify(caller), caller)

    async def _admit(
        self, head: SocketHead, query: Mapping[str, str], identity: Identity, line: Line, *, is_detached: bool
    ) -> Admission:
        name, encoding = head.name, _encoding(head, is_detached=is_detached)
        if name is not None:
            question = self._registry.find(name).check_subscribe(name, identity)
            identity = await self._authenticator.admitted(question, identity)
        elif not self._authenticator.asks:
            identity.check()
        start, beats = head.read(query)
        opened = None
        if name is not None:
            opened = await self._hub.subscribe(name, identity, encoding, start, has_connection=True)
        return Admission(self, name, identity, head.speaks_v1, beats, encoding, line, opened, is_judged=False)

    async def _serve(self, admission: Admission, handover: Handover | None, receive: Receive, send: Send) -> None:
        """Hand the connection over if the server can take it; otherwise serve it over ASGI to its end."""
        try:
            await send({"type": "websocket.accept", "subprotocol": admission.subprotocol})
        except BaseException:
            if admission.opened is not None:
                self._hub.unsubscribe(admission.opened[0])
            raise
        admission.line.kept = True
        if handover is not None:
            self.begin(admission, handover)
        else:
            await serve_websocket(partial(self.begin, admission), receive, send)

    # Past ASGI.

    def admit(
        self, head: SocketHead, query: bytes, bearer: bytes | None, client: str | None
    ) -> Admission | Reply | None:
        """Decide a handshake as over ASGI, and return the refusal if it is refused.

        Returns None if deciding has to wait, or if an application around may know the path. ``bearer`` replaces the
        credential of ``head``.
        """
        channel = None if head.name is None else self._registry.get(head.name)
        if self._authenticator.asks or (channel is None and head.name is not None):
            return None
        line = Line("connection", head.path, None, client)
        try:
            line.take_place(self._limiter.places)
            admission = self._admit_at_once(head, query_of(query), bearer, line, channel)
        except AbideError as error:
            return _refuse(error, line)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            report(error, line, self._hub.meter)
            return _refuse(of_bug(error), line)
        if admission is None:
            self._limiter.places.give_back(client)
        return admission

    def _admit_at_once(
        self, head: SocketHead, query: dict[str, str], bearer: bytes | None, line: Line, channel: Channel | None
    ) -> Admission | None:
        if head.unreadable is not None:
            raise copy(head.unreadable)  # the head is remembered, and keeps no traceback
        identity = self._identity_at_once(head, query, bearer, line.client)
        if identity is None:
            return None
        if channel is None or head.name is None:
            identity.check()
        elif channel.check_subscribe(head.name, identity) is not None:
            return None
        start, beats = head.read(query)
        encoding = _encoding(head, is_detached=True)
        opened = None
        if head.name is not None:
            opened = self._hub.join(head.name, identity, encoding, start, has_connection=True)
            if opened is None:
                return None
        return Admission(self, head.name, identity, head.speaks_v1, beats, encoding, line, opened, is_judged=True)

    def _identity_at_once(
        self, head: SocketHead, query: dict[str, str], bearer: bytes | None, client: str | None
    ) -> Identity | None:
        """Return the caller's identity; None if that has to wait."""
        caller, kept = head.callers.at(client)
        if bearer is not None:
            caller = with_bearer(caller, bearer.decode("ascii"))
        elif caller.bearer is None:
            ticket = query.get(TICKET)
            if ticket is None:
                return self._identity_of(head, client)
            caller = caller._replace(ticket=ticket)
        identity = self._authenticator.authenticate(caller, kept)
        if identity is None or identity.token is not None:
            return identity
        return for_connection(identity, caller)

    def _identity_of(self, head: SocketHead, client: str | None) -> Identity | None:
        """Return the identity of a caller that shows nothing but its head."""
        caller, kept = head.callers.at(client)
        known = self._known.get((head, caller.is_near))
        if known is not None:
            return known
        identity = self._authenticator.authenticate(caller, kept)
        if identity is None or identity.token is not None:  # a token in a cookie expires
            return identity
        identity = for_connection(identity, caller)
        if identity.fault is None and are_short(caller.headers):
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[head, caller.is_near] = identity
        return identity

    # Both.

    def begin(self, admission: Admission, handover: Handover) -> Peer:
        """Create the connection's peer, connect it to its writer, and let it begin."""
        form = self._v1(admission, handover) if admission.speaks_v1 else self._plain(admission, handover)
        self._hub.admit(form, is_judged=admission.is_judged)
        return form

    def _v1(self, admission: Admission, handover: Handover) -> V1Socket:
        session = V1Socket(
            self._hub,
            self._doors,
            self._publisher,
            self._limiter,
            admission.identity,
            admission.line,
            admission.encoding,
            admission.name,
        )
        beat = admission.heartbeat
        writer = handover(session, beat)
        if beat is not None:  # the first one says when to expect the next
            writer.write(beat.data)
        session.begin(writer, *(admission.opened or (None, None)))
        return session

    def _plain(self, admission: Admission, handover: Handover) -> PlainSocket:
        assert admission.opened is not None  # noqa: S101 — only /ws has none, and /ws speaks abide.v1
        subscription, where = admission.opened
        plain = PlainSocket(
            self._hub, self._doors, self._publisher, self._limiter, admission.identity, admission.line, subscription
        )
        plain.begin(handover(plain), where)
        return plain


def _refuse(error: AbideError, line: Line) -> Reply:
    """Return the refusal of a handshake, and write its line of the log."""
    problem = ProblemResponse.of(error)
    body = bytes(problem.body)
    line.status = problem.status_code
    line.take_body(body)
    line.write()
    return Reply(problem.status_code, tuple(problem.raw_headers), body)


def _encoding(head: SocketHead, *, is_detached: bool) -> Encoding:
    if head.speaks_v1:
        return encodings.V1_FRAMES if is_detached else encodings.V1_TEXTS
    return encodings.PLAIN_FRAMES if is_detached else encodings.PLAIN_TEXTS


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
