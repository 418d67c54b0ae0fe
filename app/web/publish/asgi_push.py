"""Pushes over ASGI: those that arrive in pieces, and all pushes under another server than ours."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.types import Receive, Scope, Send

from app.core.errors import AbideError, MalformedError
from app.core.ports import Intake, Reply
from app.web.edge.caller import peer
from app.web.edge.request import address
from app.web.publish.permission import Sender
from app.web.publish.push import Push, no_room, too_large
from app.web.publish.push_head import PushHead

_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 * 1024 * 1024

_UNREAD = frozenset({413, 503})
"""Statuses that refuse a large body, which may still be on its way."""


class AsgiPush:
    """The ASGI application that serves a ``POST`` whose path begins with ``/push``."""

    def __init__(self, push: Push, intake: Intake) -> None:
        self._push = push
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body within its limit, and send the answer."""
        head = PushHead.of(get_route_path(scope), scope["headers"], scope["query_string"])
        sender = Sender(peer(scope), address(scope))
        reply = self._push.admit(head, sender)
        lingers = isinstance(reply, Reply)
        if not isinstance(reply, Reply):
            permission, held = reply, HeldBody(receive, self._intake)
            try:
                content = await held.read(permission.limit)
            except AbideError as error:
                reply, lingers = self._push.refuse(error, sender), True
            else:
                held.release()  # from here on, decide() counts the body
                answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
                self._push.decide(permission, sender, content, partial(_set, answered))
                reply = await answered
            finally:
                held.release()
        await (_linger if lingers and reply.status in _UNREAD else _send)(reply, receive, send)


def _set(answered: asyncio.Future[Reply], reply: Reply) -> None:
    if not answered.done():  # the request may have been given up
        answered.set_result(reply)


class HeldBody:
    """A body while it arrives. The bytes that have arrived count as held until :meth:`release`."""

    def __init__(self, receive: Receive, intake: Intake) -> None:
        self._receive = receive
        self._intake = intake
        self._held = 0

    async def read(self, limit: int) -> bytes:
        """Return the body.

        Raises :class:`~app.core.errors.TooLargeError` as soon as it has more than ``limit`` bytes,
        :class:`~app.core.errors.NoRoomError` if the unfinished bodies of all clients take too much memory, and
        :class:`~app.core.errors.MalformedError` if the client disconnects before the end.
        """
        body: bytes | bytearray = b""
        more = True
        while more:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                msg = "the client disconnected before its request was complete"
                raise MalformedError(msg)
            piece = event.get("body", b"")
            self._hold(len(piece), limit)
            body = _grown(body, piece)
            more = event.get("more_body", False)
        return bytes(body)

    def release(self) -> None:
        """Stop counting the body as held."""
        self._intake.release(self._held)
        self._held = 0

    def _hold(self, size: int, limit: int) -> None:
        if self._held + size > limit:
            raise too_large(limit)
        if not self._intake.grow(self._held, size):
            raise no_room()
        self._held += size


def _grown(body: bytes | bytearray, piece: bytes) -> bytes | bytearray:
    """Return a body with one more piece, and the first piece without a copy.

    It is one growing buffer, because a list of pieces of one byte each would take fifty times their size.
    """
    if not body:
        return piece
    if not piece:
        return body
    if isinstance(body, bytes):
        body = bytearray(body)
    body += piece
    return body


async def _send(reply: Reply, _: Receive, send: Send, *, more: bool = False) -> None:
    headers = [(b"content-length", b"%d" % len(reply.body)), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": more})


async def _linger(reply: Reply, receive: Receive, send: Send) -> None:
    """Answer while the body still arrives, then read and discard it for a moment, and close the connection.

    The system resets a connection that is closed with unread data, and a reset can overtake the answer.
    """
    last = reply._replace(headers=(*reply.headers, (b"connection", b"close")))
    await _send(last, receive, send, more=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            await _drop_body(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_body(receive: Receive) -> None:
    dropped = 0
    while dropped < _LINGER_BYTES:
        message = await receive()
        dropped += len(message.get("body", b""))
        if not message.get("more_body", False):
            return
