"""A message's way as spans of OpenTelemetry: publish, commit, wake-up, fan-out.

Imported only when there is a collector to send them to (``OTEL_EXPORTER_OTLP_ENDPOINT``). :class:`Tracing` wraps the
publisher, the source and the meter (``core/ports``) that the composition root hands on; no other room knows of it.

The log keeps no trace. So only the process in which a message was published can trace its way to the end; what other
processes do with it is in no trace. A wake-up may come before the publisher is told that its message is stored, so the
last two spans are made when both are known.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Generic, TypeVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.core.channel import HistoryWindow
from app.core.message import Batch, EpochChange, Page, Position, Published, Record
from app.core.ports import Meter, Publisher, Sink, Source, Submitted

_LIMIT = 10_000
"""The most messages whose way is not complete, and the most channels. The oldest are given up."""

_PATIENCE = 2.0
"""Seconds for which a stop waits for the collector."""

_Event = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Event]]
_Send = Callable[[_Event], Awaitable[None]]
_App = Callable[[_Event, _Receive, _Send], Awaitable[None]]
_K = TypeVar("_K")
_V = TypeVar("_V")


class Tracing:
    """Wraps what a message passes. Made in the worker, after the fork: it has a thread that sends."""

    def __init__(self) -> None:
        resource = Resource({SERVICE_NAME: "abide"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("abide")
        self._ways = _Ways(self._tracer)

    def app(self, app: _App) -> _App:
        """Return an ASGI application whose pushes are spans, children of their ``traceparent``."""

        async def traced(scope: _Event, receive: _Receive, send: _Send) -> None:
            if scope["type"] != "http" or scope["method"] != "POST" or not _path(scope).startswith("/push"):
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            parent = TraceContextTextMapPropagator().extract(headers)
            with self._tracer.start_as_current_span("publish", context=parent, kind=SpanKind.SERVER) as span:
                span.set_attributes({"http.request.method": "POST", "url.path": scope["path"]})

                async def watched(message: _Event) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                    await send(message)

                await app(scope, receive, watched)

        return traced

    def publisher(self, publisher: Publisher) -> Publisher:
        """Return a publisher whose commits are spans, with the time in the queue."""
        return _Publisher(publisher, self._tracer, self._ways)

    def source(self, source: Source) -> Source:
        """Return a source that notes when this process hears of messages."""
        return _Source(source, self._ways)

    def meter(self, meter: Meter) -> Meter:
        """Return a meter that notes when they have been handed to connections."""
        return _Meter(meter, self._ways)

    def close(self) -> None:
        """Send the spans that wait, if the collector answers soon. Blocks."""
        closing = Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(_PATIENCE)


def _path(scope: _Event) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


@dataclass(slots=True)
class _Way:
    """What is known of one message; times in nanoseconds since the Unix epoch, 0 until known."""

    context: contexts.Context | None = None
    """The commit's, for its children."""
    committed: int = 0
    heard: int = 0
    sent: int = 0
    deliveries: int = 0


class _Bounded(OrderedDict[_K, _V], Generic[_K, _V]):
    """Forgets its oldest entries when it has too many."""

    def __setitem__(self, key: _K, value: _V) -> None:
        super().__setitem__(key, value)
        if len(self) > _LIMIT:
            self.popitem(last=False)


class _Ways:
    """Puts together what is told of a message from two sides, in either order."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._ways: _Bounded[tuple[str, int], _Way] = _Bounded()
        self._unsent: _Bounded[str, tuple[int, int]] = _Bounded()
        """First and last offset of what was heard of a channel and is not handed to connections yet."""

    def committed(self, channel: str, offset: int, context: contexts.Context) -> None:
        way = self._way(channel, offset)
        way.context, way.committed = context, time.time_ns()
        self._finish(channel, offset, way)

    def heard(self, channel: str, first: int, last: int) -> None:
        now = time.time_ns()
        for offset in range(first, last + 1):
            self._way(channel, offset).heard = now
        self._unsent[channel] = (self._unsent.get(channel, (first,))[0], last)

    def sent(self, channel: str, deliveries: int) -> None:
        first, last = self._unsent.pop(channel, (0, -1))
        now = time.time_ns()
        for offset in range(max(first, last - _LIMIT), last + 1):
            way = self._ways.get((channel, offset))
            if way is not None:
                way.sent, way.deliveries = now, deliveries
                self._finish(channel, offset, way)

    def _way(self, channel: str, offset: int) -> _Way:
        way = self._ways.get((channel, offset))
        if way is None:
            way = self._ways[channel, offset] = _Way()
        return way

    def _finish(self, channel: str, offset: int, way: _Way) -> None:
        if way.context is None or not way.sent:
            return
        del self._ways[channel, offset]
        attributes: dict[str, str | int] = {"abide.channel": channel, "abide.offset": offset}
        begin = min(way.committed, way.heard)
        woken = self._tracer.start_span("wake-up", way.context, start_time=begin, attributes=attributes)
        woken.end(way.heard)
        attributes["abide.deliveries"] = way.deliveries
        context = trace.set_span_in_context(woken)
        self._tracer.start_span("fan-out", context, start_time=way.heard, attributes=attributes).end(way.sent)


class _Publisher:
    """A :class:`~app.core.ports.Publisher`."""

    def __init__(self, publisher: Publisher, tracer: trace.Tracer, ways: _Ways) -> None:
        self._publisher = publisher
        self._tracer = tracer
        self._ways = ways

    def publish(self, records: Sequence[Record]) -> Submitted:
        attributes: dict[str, str | int] = {"abide.channel": records[0].channel, "abide.messages": len(records)}
        span = self._tracer.start_span("commit", kind=SpanKind.PRODUCER, attributes=attributes)
        try:
            submitted = self._publisher.publish(records)
        except BaseException as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, str(error))
            span.end()
            raise
        submitted.add_done_callback(partial(self._committed, span, records))
        return submitted

    def _committed(self, span: trace.Span, records: Sequence[Record], done: Submitted) -> None:
        span.end()
        context = trace.set_span_in_context(span)
        for record, outcome in zip(records, done.result(), strict=True):
            if isinstance(outcome, Published) and outcome.position.epoch and not outcome.replayed:
                self._ways.committed(record.channel, outcome.position.offset, context)


class _Source:
    """A :class:`~app.core.ports.Source`."""

    def __init__(self, source: Source, ways: _Ways) -> None:
        self._source = source
        self._ways = ways

    async def follow(self, channel: str, sink: Sink) -> None:
        await self._source.follow(channel, _Sink(sink, self._ways))

    async def unfollow(self, channel: str) -> None:
        await self._source.unfollow(channel)

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        return await self._source.read(channel, after, limit, history)


class _Sink:
    """A :class:`~app.core.ports.Sink`."""

    def __init__(self, sink: Sink, ways: _Ways) -> None:
        self._sink = sink
        self._ways = ways

    def start(self, position: Position) -> None:
        self._sink.start(position)

    def deliver(self, batch: Batch) -> None:
        self._ways.heard(batch.channel, batch.first, batch.last)
        self._sink.deliver(batch)

    def change_epoch(self, change: EpochChange) -> None:
        self._sink.change_epoch(change)

    def lose(self) -> None:
        self._sink.lose()

    def failed(self) -> None:
        self._sink.failed()


class _Meter:
    """A :class:`~app.core.ports.Meter`: all but ``delivered`` are the methods of the one that it wraps."""

    def __init__(self, meter: Meter, ways: _Ways) -> None:
        self._meter = meter
        self._ways = ways
        self.appended = meter.appended
        self.published = meter.published
        self.heard = meter.heard
        self.resumed = meter.resumed
        self.missed = meter.missed
        self.connected = meter.connected
        self.disconnected = meter.disconnected
        self.refused = meter.refused
        self.failed = meter.failed
        self.limited = meter.limited

    def delivered(self, channel: str, messages: int, oldest: int | None = None) -> None:
        self._ways.sent(channel, messages)
        self._meter.delivered(channel, messages, oldest)
