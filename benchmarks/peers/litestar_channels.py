"""Peer: Litestar's channels plugin, with its WebSocket routes. Imported by name: the package may be absent."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_litestar = import_module("litestar")
_channels = import_module("litestar.channels")
_memory = import_module("litestar.channels.backends.memory")


async def push(channel: str, data: dict[str, object], channels: Any) -> None:  # noqa: ANN401 — the plugin, injected
    """Publish the body."""
    channels.publish(data, channel)


app = _litestar.Litestar(
    [_litestar.post("/push/{channel:str}", status_code=200)(push)],
    plugins=[
        _channels.ChannelsPlugin(
            backend=_memory.MemoryChannelsBackend(),
            arbitrary_channels_allowed=True,
            create_ws_route_handlers=True,
        )
    ],
    openapi_config=None,
)
