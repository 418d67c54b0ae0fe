"""Server-Sent Events: ``GET /{channel}`` as an endless response (WHATWG HTML §9.2)."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from app.core import frames
from app.core.channel import Identity
from app.core.errors import CLOSE_CODES, AbideError, CloseCode
from app.core.frames import control, event
from app.core.hub import Hub
from app.core.message import Position
from app.core.ports import Writer
from app.core.resume import Begin, Gap, Start
from app.core.subscription import Subscription
from app.web.asgi import AsgiWriter
from app.web.drain import lasting

MEDIA_TYPE = "text/event-stream"

COMMENT_SECONDS = 15.0
"""After so long without an event a comment is sent: proxies end what is silent for 30 to 60 seconds."""

_RETRY = b"retry: 2000\n\n"
"""Milliseconds after which EventSource reconnects."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back until they fill a buffer
]


def is_wanted(headers: Headers) -> bool:
    """Whether the request accepts an event stream."""
    accepted = (part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(","))
    return MEDIA_TYPE in accepted


def start_of(headers: Headers, query: QueryParams) -> Start:
    """Return where to begin: ``Last-Event-ID`` goes before the query, which EventSource cannot change."""
    last_event = headers.get("last-event-id")
    if last_event:
        return Start.after_event(last_event)
    return Start.parse(query.get("since"), query.get("last"))


async def stream(  # noqa: PLR0913, PLR0917 — a request's three parts, and what it asks for
    hub: Hub, name: str, identity: Identity, start: Start, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one event stream to its end. Raises before anything is sent why it cannot be."""
    subscription, where = await hub.subscribe(name, identity, frames.SSE_BARE, start)
    try:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _run(subscription, where, scope, receive, send)
    finally:
        hub.unsubscribe(subscription)


class _EventStream:
    """One subscriber of one channel. A :class:`~app.core.ports.Peer` and a subscriber."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._writer: Writer
        """Valid once begun."""

    def begin(self, writer: Writer, where: Begin) -> None:
        self._writer = writer
        if where.gap is not None:  # no id before it: who has that would never be told, if the stream broke in between
            writer.write(_RETRY)
            self.lost(self._subscription, where.gap)
        else:
            # An event without data is not shown to anybody, but its id is kept: a stream that breaks
            # before its first message resumes without a hole.
            writer.write(_RETRY + b"id: %b\n\n" % str(self._subscription.position).encode())
        self._subscription.attach(writer, self)

    def lost(self, subscription: Subscription, gap: Gap) -> None:
        # The id moves on with it, or EventSource would ask for the same hole for ever.
        before_next = Position(gap.next.epoch, gap.next.offset - 1)
        members = control(type="gap", channel=subscription.name, after=gap.after, next=str(gap.next), reason=gap.reason)
        self._writer.write(event("gap", str(before_next), members))

    def ended(self, subscription: Subscription, error: AbideError) -> None:
        code = CLOSE_CODES[error.code]
        members = control(type="closed", channel=subscription.name, code=code, message=str(error))
        self._writer.write(event("closed", None, members))
        self._writer.close(code, "")

    def received(self, data: bytes, *, text: bool) -> None:
        """Nothing: a stream goes one way."""

    def full(self) -> None:
        self._subscription.full()

    def drained(self) -> None:
        self._subscription.drained()

    def closed(self, code: int) -> None:
        """Nothing: :func:`stream` gives the subscription back."""


async def _run(subscription: Subscription, where: Begin, scope: Scope, receive: Receive, send: Send) -> None:
    async def emit(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    writer = AsgiWriter(emit)
    events = _EventStream(subscription)
    events.begin(writer.hand_over(events), where)
    sending = asyncio.create_task(writer.run(COMMENT_SECONDS, b":\n\n"))
    watching = asyncio.create_task(_disconnected(receive))
    try:
        with lasting(scope, lambda: writer.close(CloseCode.RESTARTING, "")):
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            writer.close(CloseCode.ABNORMAL, "")
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        for task in (sending, watching):
            task.cancel()
        await asyncio.gather(sending, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
