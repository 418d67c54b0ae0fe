"""WebSocket subscriptions over plain ASGI, and the echo."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.websockets import WebSocket, WebSocketDisconnect

from app.core import data
from app.core.channel import Registry
from app.core.errors import CLOSE_CODES, AbideError, MalformedError, UnsupportedTypeError
from app.core.hub import Hub
from app.core.message import Record
from app.core.ports import Publisher
from app.core.subscription import Subscription
from app.web.auth import Authenticator, check_origin

_REASON_BYTES = 123
"""What RFC 6455 leaves for the reason of a close."""


class Sockets:
    """Admits WebSockets, and runs each until one side ends it."""

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

    async def channel(self, websocket: WebSocket) -> None:
        """Subscribe to the channel that the path names; every text frame is one message's data.

        Refusals before the upgrade are raised, and become real HTTP statuses.
        """
        name = websocket.scope["path"].removeprefix("/")
        channel = self._registry.find(name)
        check_origin(websocket.headers, self._origins)
        identity = self._authenticator.identify(websocket.headers)
        channel.check_subscribe(identity)
        _refuse_positions(websocket.query_params, websocket.scope["subprotocols"])
        async with self._hub.subscribe(name, identity) as subscription:
            await websocket.accept()
            await _until_closed(websocket, subscription, self._publisher)

    async def echo(self, websocket: WebSocket) -> None:
        """Answer what is sent: a check of the connection."""
        check_origin(websocket.headers, self._origins)
        await websocket.accept()
        while (event := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**event, "type": "websocket.send"})


def _refuse_positions(query: Mapping[str, str], subprotocols: list[str]) -> None:
    """Refuse what does not work yet: a position is never silently ignored."""
    asked = next((name for name in ("since", "last") if name in query), None)
    if asked is not None:
        msg = f"{asked!r} is not available yet: connect without it to get what is published from now on"
        raise MalformedError(msg)
    if subprotocols:
        msg = f"subprotocol {subprotocols[0][:40]!r} is not available: connect without a subprotocol"
        raise MalformedError(msg)


async def _until_closed(websocket: WebSocket, subscription: Subscription, publisher: Publisher) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_send(websocket, subscription))
            group.create_task(_receive(websocket, subscription, publisher))
    except* WebSocketDisconnect:
        pass
    except* AbideError as errors:
        await _close(websocket, errors)


async def _send(websocket: WebSocket, subscription: Subscription) -> None:
    while True:
        for message in await subscription.next():
            await websocket.send_text(message.data.decode())


async def _receive(websocket: WebSocket, subscription: Subscription, publisher: Publisher) -> None:
    while True:
        event = await websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event["code"])
        await _publish(event.get("text"), subscription, publisher)


async def _publish(text: str | None, subscription: Subscription, publisher: Publisher) -> None:
    channel = subscription.channel
    channel.check_client_publish(subscription.identity)
    if text is None:
        msg = "a message is a text frame of JSON; this one is binary"
        raise UnsupportedTypeError(msg)
    data.check(text)
    message = text.encode()
    channel.check_size(message)
    (outcome,) = await publisher.publish([Record(subscription.name, message)])
    if isinstance(outcome, AbideError):
        raise outcome


async def _close(websocket: WebSocket, errors: ExceptionGroup[AbideError]) -> None:
    error = errors.exceptions[0]
    if isinstance(error, AbideError):
        reason = str(error).encode()[:_REASON_BYTES].decode(errors="ignore")
        await websocket.close(CLOSE_CODES[error.code], reason)
