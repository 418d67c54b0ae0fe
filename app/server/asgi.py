"""What the server gives an ASGI application and takes from it, and the tasks that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

Event = MutableMapping[str, Any]
"""A message of ASGI, or a scope."""

Application = Callable[..., Awaitable[Any]]


def start(tasks: set[asyncio.Task[None]], coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine as one of the server's ``tasks``, which it leaves when it is done."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
