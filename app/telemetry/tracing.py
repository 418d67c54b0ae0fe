"""A message's way as spans of OpenTelemetry: publish, commit, wake-up, fan-out.

Imported only when there is a collector to send them to (``OTEL_EXPORTER_OTLP_ENDPOINT``). Nothing of
the server knows of it: :class:`Tracing` stands between the rooms, in place of what it wraps.

The log keeps no trace, so only the process that a message was published in can tell its way to the
end; what others do with it is in no trace. A wake-up may come before the publisher is told that its
message is stored, so the last two spans are made when both are known.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any, Generic, TypeVar, cast

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_LIMIT = 10_000
"""Messages whose way is not complete, and channels; the oldest are given up."""

_PATIENCE = 2.0
"""Seconds that a stop waits for the collector."""

_Event = MutableMapping[str, Any]
_App = Callable[..., Awaitable[None]]
_T = TypeVar("_T")
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

        async def traced(
            scope: MutableMapping[str, Any], receive: object, send: Callable[..., Awaitable[None]]
        ) -> None:
            if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/push"):
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

    def publisher(self, publisher: _T) -> _T:
        """Return a publisher whose commits are spans, with the time in the queue."""
        return cast("_T", _Publisher(publisher, self._tracer, self._ways))

    def source(self, source: _T) -> _T:
        """Return a source that notes when this process hears of messages."""
        return cast("_T", _Source(source, self._ways))

    def meter(self, meter: _T) -> _T:
        """Return a meter that notes when they have been handed to connections."""
        return cast("_T", _Meter(meter, self._ways))

    def close(self) -> None:
        """Send what waits, as long as the collector answers soon; blocks."""
        closing = Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        closing.start()
        closing.join(_PATIENCE)


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


class _Wrapper:
    """Stands for what it wraps, but for what it does itself."""

    def __init__(self, wrapped: Any, ways: _Ways) -> None:  # noqa: ANN401 — a room that this one may not know
        self._wrapped = wrapped
        self._ways = ways

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 — as above
        return getattr(self._wrapped, name)


class _Publisher(_Wrapper):
    def __init__(self, wrapped: object, tracer: trace.Tracer, ways: _Ways) -> None:
        super().__init__(wrapped, ways)
        self._tracer = tracer

    def publish(self, records: Sequence[Any]) -> asyncio.Future[list[Any]]:
        return asyncio.ensure_future(self._publish(records))

    async def _publish(self, records: Sequence[Any]) -> list[Any]:
        attributes = {"abide.channel": records[0].channel, "abide.messages": len(records)}
        with self._tracer.start_as_current_span("commit", kind=SpanKind.PRODUCER, attributes=attributes) as span:
            outcomes: list[Any] = await self._wrapped.publish(records)
            context = trace.set_span_in_context(span)
        for record, outcome in zip(records, outcomes, strict=True):
            if not getattr(outcome, "replayed", True):
                self._ways.committed(record.channel, outcome.position.offset, context)
        return outcomes


class _Source(_Wrapper):
    async def follow(self, channel: str, sink: object) -> None:
        await self._wrapped.follow(channel, _Sink(sink, self._ways))


class _Sink(_Wrapper):
    def deliver(self, batch: Any) -> None:  # noqa: ANN401 — as above
        self._ways.heard(batch.channel, batch.first, batch.last)
        self._wrapped.deliver(batch)


class _Meter(_Wrapper):
    def delivered(self, channel: str, messages: int) -> None:
        self._ways.sent(channel, messages)
        self._wrapped.delivered(channel, messages)
