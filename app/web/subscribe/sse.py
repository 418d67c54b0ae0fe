"""Server-Sent Events: ``GET /{channel}`` as an endless response (WHATWG HTML §9.2).

A browser's EventSource, once it is answered anything but 200, never asks again. So what passes by itself is answered by
a stream: it waits for the backend, and begins then, or ends after a while, so that the browser comes back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from functools import cache, partial
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from app.core.channel import Identity
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
from app.core.message import Position
from app.core.ports import FANOUT, Heartbeat, ResponseHandover, Writer
from app.core.resume import Beginning, Gap, Start
from app.web.edge.access import LINE, Line
from app.web.subscribe import heartbeat
from app.web.subscribe.asgi_writer import serve_response
from app.web.subscribe.guard import guarded, report
from app.wire.close_codes import CloseCode
from app.wire.events import SPACES, event

MEDIA_TYPE = "text/event-stream"

COMMENT_SECONDS = 15.0
"""Within so long of the last one a comment or a heartbeat is sent: proxies end what is silent for 30 to 60 seconds."""

_COMMENT = b":\n\n"

_RETRY = b"retry: 2000\n\n"
"""Milliseconds after which EventSource reconnects."""

_LONGEST_WAIT = 10.0
"""Seconds that a stream waits for the backend, at most: then it ends, and its reader comes back."""

_LAST_EVENT = frozenset({"lasteventid", "evslasteventid"})
"""How polyfills of EventSource name the parameter that they resume by, in lower case and without ``-`` and ``_``."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back until they fill a buffer
]

Opened = tuple[Subscription, Beginning]


class StreamRequest(NamedTuple):
    """What a request for a stream asks for, and by whom."""

    name: str
    """The channel's."""
    identity: Identity
    start: Start
    wants_heartbeat: bool

    @classmethod
    def of(cls, name: str, identity: Identity, headers: Mapping[str, str], query: Mapping[str, str]) -> StreamRequest:
        """Read a request. Raises :class:`~app.core.errors.MalformedError`."""
        return cls(name, identity, start_of(headers, query), heartbeat.is_wanted(query))


def is_wanted(headers: Mapping[str, str]) -> bool:
    """Whether the request accepts an event stream."""
    accepted = (part.partition(";")[0].strip().lower() for part in headers.get("accept", "").split(","))
    return MEDIA_TYPE in accepted


def start_of(headers: Mapping[str, str], query: Mapping[str, str]) -> Start:
    """Return where to begin: ``Last-Event-ID`` goes before the query, which EventSource cannot change.

    Polyfills cannot send that header everywhere, and add a parameter instead, which goes before ``since`` and ``last``.
    """
    last_event = headers.get("last-event-id") or _last_event_of(query)
    if last_event:
        return Start.after_event(last_event)
    return Start.parse(query.get("since"), query.get("last"))


def _last_event_of(query: Mapping[str, str]) -> str:
    given = ""
    for name, value in query.items():
        if name.lower().translate({ord("-"): None, ord("_"): None}) in _LAST_EVENT:
            given = value.strip(" \t") or given
    return given


async def stream(hub: Hub, request: StreamRequest, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one event stream to its end. Raises before anything is sent why it cannot be."""
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
    """Give a stream its writer, and let it begin."""
    beat = _beat(stream.encoding, visible=request.wants_heartbeat)
    stream.begin(handover(stream, beat), request, opened)
    return stream


def _heartbeat() -> bytes:
    return event("heartbeat", None, heartbeat.text(COMMENT_SECONDS))


@cache
def _beat(encoding: Encoding, *, visible: bool) -> Heartbeat:
    return Heartbeat(encoding.wrap(_heartbeat() if visible else _COMMENT), COMMENT_SECONDS)


class EventStream:
    """One subscriber of one channel. A :class:`~app.core.ports.Peer` and a subscriber."""

    __slots__ = ("_hub", "_line", "_name", "_start", "_subscription", "_waiting", "_writer", "encoding")

    def __init__(self, hub: Hub, name: str, encoding: Encoding, line: Line) -> None:
        self._hub = hub
        self._name = name
        self.encoding = encoding
        self._line = line
        self._subscription: Subscription | None = None
        """None while it waits for the backend."""
        self._start = 0
        self._waiting: asyncio.Task[None] | None = None
        self._writer: Writer
        """Valid once begun."""

    async def open(self, request: StreamRequest) -> Opened | AbideError:
        """Subscribe; return why not where it may work later. Raises :class:`~app.core.errors.UnknownChannelError`."""
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
        """Send where the stream stands, and what comes after it; or wait until that is known."""
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
        """Ask the backend again for a while; begin when it answers, or end, so that the reader comes back."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + _spread(_LONGEST_WAIT), _LONGEST_WAIT / 10
        opened: Opened | AbideError | None = None
        try:
            while not isinstance(opened, tuple) and loop.time() < end:
                await asyncio.sleep(_spread(pause))
                pause = min(2 * pause, _LONGEST_WAIT / 3)
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
        """Go on with a subscription, behind what comes first of all."""
        self._subscription, self._start = subscription, where.cursor
        if where.gap is not None:  # no id before it: who has that would never be told, if the stream broke in between
            if first:
                self._write(first)
            self.lost(subscription, where.gap)
        else:
            # An event without data is not shown to anybody, but its id is kept: a stream that breaks
            # before its first message resumes without a hole.
            self._write(first + b"id: %b\n\n" % str(subscription.position).encode())
        subscription.attach(self._writer, self)

    @guarded
    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Say so; what is held comes after it."""
        # The id moves on with it, or EventSource would ask for the same hole for ever.
        before_next = Position(gap.next.epoch, gap.next.offset - 1)
        members = json_object(
            type="gap", channel=subscription.name, after=gap.after, next=str(gap.next), reason=gap.reason
        )
        self._write(event("gap", str(before_next), members))

    @guarded
    def ended(self, _: Subscription, error: AbideError) -> None:
        """Say why, and end the response."""
        self._end(error)

    def _end(self, error: AbideError) -> None:
        code = CLOSE_CODES[error.code]
        if code is CloseCode.INTERNAL_ERROR:
            report(error, self._line, self._hub.meter)
        data = json_object(type="closed", channel=self._name, code=code, message=str(error))
        self._write(event("closed", None, data))
        self._writer.close(code, "")

    def received(self, data: bytes, *, text: bool) -> None:
        """Nothing: a stream goes one way."""

    def max_size(self) -> int:
        """Nothing: a stream goes one way."""
        return 0

    @guarded
    def full(self) -> None:
        """Stop at what was sent."""
        if self._subscription is not None:
            self._subscription.full()

    @guarded
    def writable(self) -> None:
        """Go on from there."""
        if self._subscription is not None:
            self._subscription.writable()

    def closed(self, code: int) -> None:
        """Give back the subscription, and write the line."""
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
        """End the response because of a bug, and say no more."""
        report(of_bug(error), self._line, self._hub.meter)
        self._writer.close(CloseCode.INTERNAL_ERROR, "")

    def _write(self, data: bytes) -> None:
        self._writer.write(self.encoding.wrap(data))


def _spread(seconds: float) -> float:
    """Return anything from half of it up, so that thousands do not do the same at once."""
    return random.uniform(seconds / 2, seconds)  # noqa: S311 — it spreads load
