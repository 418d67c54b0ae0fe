"""Documents that take a while to make: once for each channels.yaml, and never on the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response

Object = Mapping[str, Any]

_MOST = 4
"""Documents that are kept: one for each path that the application is served under, which is one."""


class Document:
    """A route that answers with one JSON document, which is made when it is first asked for.

    ``describe`` gets the path that the application is served under.
    """

    def __init__(self, describe: Callable[[str], Object]) -> None:
        self._describe = describe
        self._made: dict[str, asyncio.Future[bytes]] = {}

    async def answer(self, request: Request) -> Response:
        """Answer with the document; those who come while it is made wait for the same one."""
        root_path = request.scope.get("root_path", "")
        made = self._made.get(root_path)
        if made is None or (made.done() and (made.cancelled() or made.exception())):
            if len(self._made) >= _MOST:  # whoever mounts it under a pattern serves it under any number of paths
                self._made.clear()
            made = self._made[root_path] = asyncio.ensure_future(asyncio.to_thread(self._make, root_path))
        content = await asyncio.shield(made)
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    def _make(self, root_path: str) -> bytes:
        return dump(self._describe(root_path))


def dump(document: Object) -> bytes:
    """Return a document as JSON.

    The members of its members one by one: the encoder holds the interpreter for as long as one call takes, and
    the event loop, in another thread, waits for it.
    """
    return f"{{{','.join(f'{json.dumps(name)}:{_dump(value)}' for name, value in document.items())}}}".encode()


def _dump(value: object) -> str:
    if not isinstance(value, Mapping):
        return _text(value)
    return f"{{{','.join(f'{json.dumps(name)}:{_text(member)}' for name, member in value.items())}}}"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
