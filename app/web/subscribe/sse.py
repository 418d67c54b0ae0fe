"""Server-Sent Events: ``GET /{channel}`` as an endless response (WHATWG HTML §9.2).

A browser's EventSource gives up for good once it is answered anything but 200. So a request is answered 200 even
while the backend is unavailable: the stream waits for the backend, and ends after a while, when the browser reconnects.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from functools import cache, partial
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from app.core.delivery import encodings
from app.core.delivery.encodings import Encoding, json_object
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import (
    CLOSE_CODES,
    AbideError,
    ChannelRemovedError,
    UnavailableError,
    UnknownChannelError,
    bare,
    of_bug,
)
from app.core.message import NOWHERE, Position
from app.core.ports import FANOUT, Heartbeat, ResponseHandover, Writer
from app.core.resume import Beginning, Gap, Start
from app.core.rights.policy import Identity
from app.web.edge.access import LINE, Line
from app.web.subscribe import heartbeat
from app.web.subscribe.asgi_writer import serve_response
from app.web.subscribe.guard import guarded, report
from app.wire.close_codes import CloseCode
from app.wire.events import SPACES, event

MEDIA_TYPE = "text/event-stream"

COMMENT_SECONDS = 15.0
"""The longest time between two comments or heartbeats: proxies end responses that are silent for 30 to 60 seconds."""

_COMMENT = b":\n\n"

_RETRY = b"retry: 2000\n\n"
"""How many milliseconds EventSource waits before it reconnects."""

LONGEST_WAIT = 10.0
"""The most seconds that a stream waits for the backend before it ends, and its reader reconnects."""

_LAST_EVENT = frozenset({"lasteventid", "evslasteventid"})
"""Names that polyfills of EventSource give the parameter they resume by, in lower case and without ``-`` and ``_``."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx holds events back until they fill a buffer
]

Opened = tuple[Subscription, Beginning]


class StreamRequest(NamedTuple):
    """What a request for a stream asks for, and its caller."""

    name: str
    """The channel's name."""
    identity: Identity
    start: Start
    wants_heartbeat: bool

    @classmethod
    def of(cls, name: str, identity: Identity, last_event: str | None, query: Mapping[str, str]) -> StreamRequest:
        """Read a request. Raises :class:`~app.core.errors.MalformedError`."""
        return cls(name, identity, start_of(last_event, query), heartbeat.is_wanted(query))


def is_wanted(headers: Mapping[str, str]) -> bool:
    """Whether the request accepts an event stream."""
    accepted = (part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(","))
    return MEDIA_TYPE in accepted


def start_of(last_event: str | None, query: Mapping[str, str]) -> Start:
    """Return where to begin: ``Last-Event-ID`` takes precedence over the query, which EventSource cannot change.

    Polyfills cannot always send that header, and add a parameter instead, which precedes ``since`` and ``last``.
    """
    last_event = last_event or _last_event_of(query)
    if last_event:
        return Start.after_event(last_event)
    return Start.parse(query.get("since"), query.get("last"))


def _last_event_of(query: Mapping[str, str]) -> str:
    if not query:
        return ""
    given = ""
    for name, value in query.items():
        if name.lower().translate({ord("-"): None, ord("_"): None}) in _LAST_EVENT:
            given = value.strip(" \t") or given
    return given


async def stream(hub: Hub, request: StreamRequest, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one event stream to its end. Raises :class:`AbideError`, before anything is sent, to refuse it."""
    handover: ResponseHandover | None = scope.get("extensions", {}).get(FANOUT)
    encoding = encodings.SSE_BARE if handover is None else encodings.SSE_CHUNKS
    stream = EventStream(hub, request.name, encoding, scope[LINE])
    opened = await stream.open(request)
    try:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    except BaseException:
        if not isinstance(opened, AbideError):
            hub.unsubscribe(opened[0])
        raise
    begin = partial(_begin, stream, request, opened)
    if handover is not None:
        begin(handover)
    else:
        await serve_response(begin, scope, receive, send)


def _begin(
    stream: EventStream, request: StreamRequest, opened: Opened | AbideError, handover: ResponseHandover
) -> EventStream:
    """Connect a stream to its writer, and let it begin."""
    beat = _beat(stream.encoding, visible=request.wants_heartbeat)
    stream.begin(handover(stream, beat), request, opened)
    return stream


def _heartbeat() -> bytes:
    return event("heartbeat", None, heartbeat.text(COMMENT_SECONDS))


@cache
def _beat(encoding: Encoding, *, visible: bool) -> Heartbeat:
    return Heartbeat(encoding.wrap(_heartbeat() if visible else _COMMENT), COMMENT_SECONDS)


class StreamAdmission(NamedTuple):
    """A request that was admitted past ASGI: an :class:`~app.core.ports.AdmittedStream`."""

    hub: Hub
    request: StreamRequest
    opened: Opened
    line: Line
    headers: tuple[tuple[bytes, bytes], ...]

    def begin(self, handover: ResponseHandover) -> None:
        """Connect the stream to its writer, and let it begin."""
        self.line.status = 200
        stream = EventStream(self.hub, self.request.name, encodings.SSE_CHUNKS, self.line)
        _begin(stream, self.request, self.opened, handover)


def admit(
    hub: Hub, request: StreamRequest, line: Line, added: tuple[tuple[bytes, bytes], ...]
) -> StreamAdmission | None:
    """Open the stream of an admitted request at once; None if that has to wait. ``added`` are more headers of it."""
    opened = hub.join(request.name, request.identity, encodings.SSE_CHUNKS, request.start)
    return None if opened is None else StreamAdmission(hub, request, opened, line, (*_HEADERS, *added))


class EventStream:
    """One event stream of one channel. A :class:`~app.core.ports.Peer` and a subscriber."""

    __slots__ = ("_hub", "_line", "_name", "_start", "_subscription", "_waiting", "_writer", "encoding")

    def __init__(self, hub: Hub, name: str, encoding: Encoding, line: Line) -> None:
        self._hub = hub
        self._name = name
        self.encoding = encoding
        self._line = line
        self._subscription: Subscription | None = None
        """None while the stream waits for the backend."""
        self._start = 0
        self._waiting: asyncio.Task[None] | None = None
        self._writer: Writer
        """Valid once the stream has begun."""

    async def open(self, request: StreamRequest) -> Opened | AbideError:
        """Subscribe; return the error if a later attempt may succeed. Raises :class:`UnknownChannelError`."""
        try:
            return await self._hub.subscribe(self._name, request.identity, self.encoding, request.start)
        except UnknownChannelError:
            raise
        except UnavailableError as error:
            return bare(error)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            report(error, self._line, self._hub.meter)
            return of_bug()

    @guarded
    def begin(self, writer: Writer, request: StreamRequest, opened: Opened | AbideError) -> None:
        """Send the position and the messages after it; wait for the backend first if it is unavailable."""
        self._hub.meter.connected("sse")
        self._line.kept = True
        self._writer = writer
        first = _RETRY + (_heartbeat() if request.wants_heartbeat else b"")
        if isinstance(opened, AbideError):
            self._write(first + b": %b\n\n" % str(opened).encode().translate(SPACES))
            self._waiting = asyncio.get_running_loop().create_task(self._wait(request))
        else:
            self._join(first, *opened)

    async def _wait(self, request: StreamRequest) -> None:
        """Retry for a while; begin when the backend answers, or end the stream so that the reader reconnects."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + _spread(LONGEST_WAIT), LONGEST_WAIT / 10
        opened: Opened | AbideError | None = None
        try:
            while not isinstance(opened, tuple) and loop.time() < end:
                await asyncio.sleep(_spread(pause))
                pause = min(2 * pause, LONGEST_WAIT / 3)
                opened = await self.open(request)
        except UnknownChannelError:
            self._end(ChannelRemovedError(f"channel {self._name!r} was removed from channels.yaml"))
        else:
            if isinstance(opened, tuple):
                self._join(b"", *opened)
            else:
                self._writer.close(CloseCode.OVERLOADED, "")
        finally:
            self._waiting = None

    @guarded
    def _join(self, first: bytes, subscription: Subscription, where: Beginning) -> None:
        """Begin with a subscription, after sending ``first``."""
        self._subscription, self._start = subscription, where.cursor
        if where.gap is not None:  # no id before it: a reader that resumed from that id would never learn of the gap
            if first:
                self._write(first)
            self.lost(subscription, where.gap)
        else:
            # EventSource keeps the id of an event without data, and shows no event: a stream that
            # breaks before its first message resumes without a gap.
            self._write(first + b"id: %b\n\n" % _id(subscription.position).encode())
        subscription.attach(self._writer, self)

    @guarded
    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Report the gap; the messages after it follow."""
        # The event has an id after the gap: otherwise EventSource would resume before it again and again.
        before_next = Position(gap.next.epoch, gap.next.offset - 1)
        members = json_object(
            type="gap", channel=subscription.name, after=gap.after, next=gap.next.text, reason=gap.reason
        )
        self._write(event("gap", _id(before_next), members))

    @guarded
    def ended(self, _: Subscription, error: AbideError) -> None:
        """Report the error, and end the response."""
        self._end(error)

    def _end(self, error: AbideError) -> None:
        code = CLOSE_CODES[error.code]
        if code is CloseCode.INTERNAL_ERROR:
            report(error, self._line, self._hub.meter)
        data = json_object(type="closed", channel=self._name, code=code, message=str(error))
        self._write(event("closed", None, data))
        self._writer.close(code, "")

    def received(self, data: bytes, *, text: bool) -> None:
        """Do nothing: a stream goes one way."""

    def max_size(self) -> int:
        """Return 0: a stream goes one way."""
        return 0

    @guarded
    def full(self) -> None:
        """Send nothing more until :meth:`writable`."""
        if self._subscription is not None:
            self._subscription.full()

    @guarded
    def writable(self) -> None:
        """Send again."""
        if self._subscription is not None:
            self._subscription.writable()

    def closed(self, code: int) -> None:
        """Unsubscribe, and write the log line."""
        self._hub.meter.disconnected("sse")
        if self._waiting is not None:
            self._waiting.cancel()
        try:
            if self._subscription is not None:
                self._line.messages = self._subscription.position.offset - self._start
                self._hub.unsubscribe(self._subscription)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            report(error, self._line, self._hub.meter)
        self._line.close_code = code
        self._line.write()

    def crash(self, error: BaseException) -> None:
        """End the response because of a bug, without another event."""
        report(of_bug(error), self._line, self._hub.meter)
        self._writer.close(CloseCode.INTERNAL_ERROR, "")

    def _write(self, data: bytes) -> None:
        self._writer.write(self.encoding.wrap(data))


def _id(position: Position) -> str:
    """Return the id of an event: an EventSource that reconnects sends it back, and is told of a gap if there is one."""
    return position.text or NOWHERE


def _spread(seconds: float) -> float:
    """Return a random time from half of ``seconds`` up, so that thousands of streams do not act at once."""
    return random.uniform(seconds / 2, seconds)  # noqa: S311 — it spreads load
