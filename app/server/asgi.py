"""What the server gives an ASGI application and takes from it, and the tasks that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr

from app.wire.request_head import RequestHead

Event = MutableMapping[str, Any]
"""A message of ASGI, or a scope."""

Application = Callable[..., Awaitable[Any]]


def request_scope(
    head: RequestHead, config: Config, client: tuple[str, int] | None, transport: asyncio.Transport, *, is_tls: bool
) -> Event:
    """Return the scope of a request, without its state and its extensions."""
    path, raw_path, query = head.target
    root_path = config.root_path
    return {
        "type": "http",
        "asgi": {"version": config.asgi_version, "spec_version": "2.3"},
        "http_version": head.version,
        "server": get_local_addr(transport),
        "client": client,
        "scheme": "https" if is_tls else "http",
        "root_path": root_path,
        "method": head.method.decode("ascii"),
        "path": root_path + path,
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query,
        "headers": list(head.headers),
    }


def start(tasks: set[asyncio.Task[None]], coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine as one of the server's ``tasks``, which it leaves when it is done."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
