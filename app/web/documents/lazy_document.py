"""Documents that are slow to make: made once for each channels.yaml, and never on the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response

Object = Mapping[str, Any]

_MOST = 4
"""The most documents that are kept: one for each path under which the application is served, usually one."""


class Document:
    """A route that answers with one JSON document, which the first request makes.

    ``describe`` gets the path under which the application is served.
    """

    def __init__(self, describe: Callable[[str], Object]) -> None:
        self._describe = describe
        self._made: dict[str, asyncio.Future[bytes]] = {}

    async def answer(self, request: Request) -> Response:
        """Answer with the document. Requests that arrive while it is being made wait for the same one."""
        root_path = request.scope.get("root_path", "")
        made = self._made.get(root_path)
        if made is None or (made.done() and (made.cancelled() or made.exception())):
            if len(self._made) >= _MOST:  # mounted under a pattern, it has any number of paths
                self._made.clear()
            made = self._made[root_path] = asyncio.ensure_future(asyncio.to_thread(self._make, root_path))
        content = await asyncio.shield(made)
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    def _make(self, root_path: str) -> bytes:
        return dump(self._describe(root_path))


def dump(document: Object) -> bytes:
    """Return a document as JSON.

    It encodes the members of each member one by one, because each call of the encoder holds the interpreter lock and
    makes the event loop, in another thread, wait.
    """
    return f"{{{','.join(f'{json.dumps(name)}:{_dump(value)}' for name, value in document.items())}}}".encode()


def _dump(value: object) -> str:
    if not isinstance(value, Mapping):
        return _text(value)
    return f"{{{','.join(f'{json.dumps(name)}:{_text(member)}' for name, member in value.items())}}}"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
