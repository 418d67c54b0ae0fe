"""WebSocket subscriptions: who is admitted, and how one is served over plain ASGI; the echo."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.core.channel import Registry
from app.core.errors import CLOSE_CODES, AbideError, MalformedError, UnsupportedTypeError
from app.core.hub import Hub
from app.core.ports import Handover, Publisher
from app.core.subscription import Subscription
from app.web.access import LINE
from app.web.auth import Authenticator, check_origin
from app.web.connection import Connection, close_reason
from app.web.problems import ProblemResponse
from app.web.publishing import publish_text

EXTENSION = "abide.fanout"


class Sockets:
    """An ASGI application for WebSockets: admits each, and serves it until one side ends it."""

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator,
        origins: tuple[str, ...],
        hub: Hub,
        publisher: Publisher,
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._origins = origins
        self._hub = hub
        self._publisher = publisher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one handshake; what is refused before the upgrade is a real HTTP status."""
        await receive()  # websocket.connect
        headers = Headers(scope=scope)
        try:
            check_origin(headers, self._origins)
            if scope["path"] == "/echo":
                await _echo(receive, send)
                return
            subscription = await self._admit(scope, headers)
        except AbideError as error:
            await ProblemResponse.of(error)(scope, receive, send)
            return
        await self._serve(subscription, scope, receive, send)

    async def _admit(self, scope: Scope, headers: Headers) -> Subscription:
        """Open the subscription that the path asks for, or raise why not."""
        name = scope["path"][1:]
        channel = self._registry.find(name)
        identity = self._authenticator.identify(headers)
        channel.check_subscribe(identity)
        _refuse_positions(scope)
        return await self._hub.subscribe(name, identity)

    async def _serve(self, subscription: Subscription, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the connection over, where the server can; else serve it from here to its end."""
        handover: Handover | None = scope.get("extensions", {}).get(EXTENSION)
        try:
            await send({"type": "websocket.accept"})
            if handover is not None:
                Connection(subscription, self._hub, self._publisher, scope[LINE]).begin(handover)
                return
            await _until_closed(subscription, self._publisher, receive, send)
        except BaseException:
            self._hub.unsubscribe(subscription)
            raise
        self._hub.unsubscribe(subscription)


def _refuse_positions(scope: Scope) -> None:
    """Refuse what does not work yet: a position is never silently ignored."""
    query = {name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)}
    asked = next((name for name in ("since", "last") if name in query), None)
    if asked is not None:
        msg = f"{asked!r} is not available yet: connect without it to get what is published from now on"
        raise MalformedError(msg)
    if scope["subprotocols"]:
        msg = f"subprotocol {scope['subprotocols'][0][:40]!r} is not available: connect without a subprotocol"
        raise MalformedError(msg)


async def _echo(receive: Receive, send: Send) -> None:
    """Answer what is sent: a check of the connection."""
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


class _ClosedError(Exception):
    """The subscriber is gone."""


async def _until_closed(subscription: Subscription, publisher: Publisher, receive: Receive, send: Send) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_send(subscription, send))
            group.create_task(_receive(subscription, publisher, receive))
    except* (_ClosedError, OSError):
        pass
    except* AbideError as errors:
        await _close(send, errors)


async def _send(subscription: Subscription, send: Send) -> None:
    while True:
        for message in await subscription.next():
            await send({"type": "websocket.send", "text": message.data.decode()})


async def _receive(subscription: Subscription, publisher: Publisher, receive: Receive) -> None:
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            raise _ClosedError
        text = event.get("text")
        if text is None:
            msg = "a message is a text frame of JSON; this one is binary"
            raise UnsupportedTypeError(msg)
        await publish_text(text.encode(), subscription, publisher)


async def _close(send: Send, errors: ExceptionGroup[AbideError]) -> None:
    error = errors.exceptions[0]
    if isinstance(error, AbideError):
        await send({"type": "websocket.close", "code": CLOSE_CODES[error.code], "reason": close_reason(error)})
