"""Server-Sent Events: ``GET /{channel}`` as an endless response (WHATWG HTML §9.2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.types import Receive, Scope, Send

from app.core import frames
from app.core.channel import Identity
from app.core.errors import CLOSE_CODES, AbideError, CloseCode, of_bug
from app.core.frames import control, event
from app.core.hub import Hub
from app.core.message import Position
from app.core.ports import FANOUT, Heartbeat, ResponseHandover, Writer
from app.core.resume import Begin, Gap, Start
from app.core.subscription import Subscription
from app.web.access import LINE, Line
from app.web.asgi import serve_response
from app.web.guard import guarded, report

MEDIA_TYPE = "text/event-stream"

COMMENT_SECONDS = 15.0
"""Within so long of the last one a comment is sent: proxies end what is silent for 30 to 60 seconds."""

_HEARTBEATS = {
    encoding: Heartbeat(encoding.wrap(b":\n\n"), COMMENT_SECONDS) for encoding in (frames.SSE_BARE, frames.SSE_CHUNKS)
}

_RETRY = b"retry: 2000\n\n"
"""Milliseconds after which EventSource reconnects."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back until they fill a buffer
]


def is_wanted(headers: Mapping[str, str]) -> bool:
    """Whether the request accepts an event stream."""
    accepted = (part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(","))
    return MEDIA_TYPE in accepted


def start_of(headers: Mapping[str, str], query: Mapping[str, str]) -> Start:
    """Return where to begin: ``Last-Event-ID`` goes before the query, which EventSource cannot change."""
    last_event = headers.get("last-event-id")
    if last_event:
        return Start.after_event(last_event)
    return Start.parse(query.get("since"), query.get("last"))


async def stream(  # noqa: PLR0913, PLR0917 — a request's three parts, and what it asks for
    hub: Hub, name: str, identity: Identity, start: Start, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one event stream to its end. Raises before anything is sent why it cannot be."""
    handover: ResponseHandover | None = scope.get("extensions", {}).get(FANOUT)
    encoding = frames.SSE_BARE if handover is None else frames.SSE_CHUNKS
    subscription, where = await hub.subscribe(name, identity, encoding, start)
    try:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    except BaseException:
        hub.unsubscribe(subscription)
        raise
    begin = partial(_begin, EventStream(hub, subscription, scope[LINE]), where)
    if handover is not None:
        begin(handover)
    else:
        await serve_response(begin, scope, receive, send)


def _begin(stream: EventStream, where: Begin, handover: ResponseHandover) -> EventStream:
    """Give a stream its writer, and let it begin."""
    stream.begin(handover(stream, stream.heartbeat), where)
    return stream


class EventStream:
    """One subscriber of one channel. A :class:`~app.core.ports.Peer` and a subscriber."""

    __slots__ = ("_hub", "_line", "_start", "_subscription", "_writer")

    def __init__(self, hub: Hub, subscription: Subscription, line: Line) -> None:
        self._hub = hub
        self._subscription = subscription
        self._start = subscription.cursor
        hub.meter.connected("sse")
        self._line = line
        self._writer: Writer
        """Valid once begun."""

    @property
    def heartbeat(self) -> Heartbeat:
        """What is sent when nothing else is."""
        return _HEARTBEATS[self._subscription.encoding]

    @guarded
    def begin(self, writer: Writer, where: Begin) -> None:
        """Send where the stream stands, and what comes after it."""
        self._line.kept = True
        self._writer = writer
        subscription = self._subscription
        if where.gap is not None:  # no id before it: who has that would never be told, if the stream broke in between
            self._write(_RETRY)
            self.lost(subscription, where.gap)
        else:
            # An event without data is not shown to anybody, but its id is kept: a stream that breaks
            # before its first message resumes without a hole.
            self._write(_RETRY + b"id: %b\n\n" % str(subscription.position).encode())
        subscription.attach(writer, self)

    @guarded
    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Say so; what is held comes after it."""
        # The id moves on with it, or EventSource would ask for the same hole for ever.
        before_next = Position(gap.next.epoch, gap.next.offset - 1)
        members = control(type="gap", channel=subscription.name, after=gap.after, next=str(gap.next), reason=gap.reason)
        self._write(event("gap", str(before_next), members))

    @guarded
    def ended(self, subscription: Subscription, error: AbideError) -> None:
        """Say why, and end the response."""
        code = CLOSE_CODES[error.code]
        if code is CloseCode.INTERNAL_ERROR:
            report(error, self._line, self._hub.meter)
        members = control(type="closed", channel=subscription.name, code=code, message=str(error))
        self._write(event("closed", None, members))
        self._writer.close(code, "")

    def received(self, data: bytes, *, text: bool) -> None:
        """Nothing: a stream goes one way."""

    def most(self) -> int:
        """Nothing: a stream goes one way."""
        return 0

    @guarded
    def full(self) -> None:
        """Stop at what was sent."""
        self._subscription.full()

    @guarded
    def drained(self) -> None:
        """Go on from there."""
        self._subscription.drained()

    def closed(self, code: int) -> None:
        """Give back the subscription, and write the line."""
        self._hub.meter.disconnected("sse")
        try:
            self._line.messages = self._subscription.position.offset - self._start
            self._hub.unsubscribe(self._subscription)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            report(error, self._line, self._hub.meter)
        self._line.close_code = code
        self._line.write()

    def crash(self, error: BaseException) -> None:
        """End the response because of a bug, and say no more."""
        report(of_bug(error), self._line, self._hub.meter)
        self._writer.close(CloseCode.INTERNAL_ERROR, "")

    def _write(self, data: bytes) -> None:
        self._writer.write(self._subscription.encoding.wrap(data))
