"""``GET /channels``: what is declared, and how much of it is in use here."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.core.channel import Channel, Registry
from app.core.errors import UnauthorisedError
from app.core.hub import Hub
from app.web.auth import Authenticator


class Window(BaseModel):
    """What a channel keeps."""

    size: int = Field(description="Messages, at most; 0 keeps nothing")
    ttl: int = Field(description="Seconds that a message is kept")


class Declared(BaseModel):
    """One channel or family of channels: its policy and its counters."""

    name: str = Field(examples=["lebowski", "chat.{room}"])
    publish: str = Field(description="Who may publish", examples=["anyone", "key"])
    subscribe: str = Field(description="Who may subscribe", examples=["anyone"])
    client_publish: bool = Field(description="Whether a connected subscriber may publish by sending")
    history: Window
    max_message_size: int = Field(description="Bytes of JSON")
    subscribers: int = Field(description="Subscriptions in this worker; a family's are those of all its channels")
    head: int | None = Field(
        description="Offset of the newest message; null for a family, and where nobody subscribes in this worker"
    )


class ChannelList(BaseModel):
    """The body of ``GET /channels``, in the order of the file."""

    channels: list[Declared]


class Channels:
    """The route. It names what is declared, so it needs a key wherever there are keys."""

    def __init__(self, registry: Registry, authenticator: Authenticator, hub: Hub) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._hub = hub

    async def list(self, request: Request) -> Response:
        """Answer with every declared channel; raise :class:`UnauthorisedError`."""
        self._check(request)
        subscribers, heads = self._count()
        content = [
            _describe(channel, subscribers.get(channel.name, 0), heads.get(channel.name))
            for channel in self._registry.channels
        ]
        return JSONResponse({"channels": content}, headers={"cache-control": "no-store"})

    async def head(self, request: Request) -> Response:
        """Answer whether the caller may have the list."""
        self._check(request)
        return JSONResponse(None, headers={"cache-control": "no-store"})

    def _check(self, request: Request) -> None:
        identity = self._authenticator.identify(request.headers)
        if self._authenticator.has_keys and not identity.has_key:
            msg = f"the list of channels needs a key, and {identity.reason}: send 'Authorization: Bearer <key>'"
            raise UnauthorisedError(msg)

    def _count(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return subscriptions and heads by declared name; a name that is not declared any more is left out."""
        subscribers: dict[str, int] = {}
        heads = {}
        for name, (count, head) in self._hub.counters().items():
            channel = self._registry.get(name)
            if channel is not None:
                subscribers[channel.name] = subscribers.get(channel.name, 0) + count
                if not channel.is_family:
                    heads[name] = head
        return subscribers, heads


def _describe(channel: Channel, subscribers: int, head: int | None) -> dict[str, Any]:
    return {
        "name": channel.name,
        "publish": channel.publish,
        "subscribe": channel.subscribe,
        "client_publish": channel.client_publish,
        "history": {"size": channel.history.size, "ttl": channel.history.ttl},
        "max_message_size": channel.max_message_size,
        "subscribers": subscribers,
        "head": head,
    }
