"""Documents that take a while to make: once for each channels.yaml, and never on the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Response

Object = Mapping[str, Any]


class Document:
    """A route that answers with one JSON document, which is made when it is first asked for."""

    def __init__(self, describe: Callable[[], Object]) -> None:
        self._describe = describe
        self._made: asyncio.Future[bytes] | None = None

    async def answer(self) -> Response:
        """Answer with the document; those who come while it is made wait for the same one."""
        if self._made is None or (self._made.done() and (self._made.cancelled() or self._made.exception())):
            self._made = asyncio.ensure_future(asyncio.to_thread(self._make))
        content = await asyncio.shield(self._made)
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})

    def _make(self) -> bytes:
        return dump(self._describe())


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
