"""The small protocols that the rooms hand each other, so that no room needs to know the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from app.core.channel import History
from app.core.errors import AbideError
from app.core.message import Batch, Page, Position, Published, Record, Turn
from app.wire.request_head import RequestHead

Outcome = Published | AbideError
"""What became of one record: stored, or refused and why."""


class Publisher(Protocol):
    """Where messages go in."""

    def publish(self, records: Sequence[Record]) -> asyncio.Future[list[Outcome]]:
        """Append the records in order and return one outcome for each, when they are stored.

        Raises :class:`~app.core.errors.OverloadedError` at once when too many wait already.
        """


class Sink(Protocol):
    """Who is handed a channel's messages as they are appended."""

    def start(self, position: Position) -> None:
        """Learn where the live messages begin: after ``position``. Called once, first."""

    def deliver(self, batch: Batch) -> None:
        """Take the next messages. Must not block: the bus waits for it."""

    def turn(self, turn: Turn) -> None:
        """Learn that the log goes on in another epoch. Must not block."""

    def failed(self) -> None:
        """Learn that :meth:`deliver` has raised: end what is open, so that it comes back and resumes."""


class Source(Protocol):
    """Where messages come out."""

    async def follow(self, channel: str, sink: Sink) -> None:
        """Hand ``sink`` everything appended to the channel from now on, in order, once."""

    async def unfollow(self, channel: str) -> None:
        """Stop what :meth:`follow` began."""

    async def read(self, channel: str, after: int, limit: int, history: History) -> Page:
        """Read at most ``limit`` messages past offset ``after`` that ``history`` still shows."""


class Writer(Protocol):
    """One connection that was handed over by the server: bytes go in, nothing waits.

    Got from the ASGI extension ``abide.fanout`` (:data:`FANOUT`). Valid until ``Peer.closed``; then
    everything is ignored.
    """

    def write(self, data: bytes) -> None:
        """Send bytes that are whole frames of the connection's wire format, shared or not."""

    @staticmethod
    def write_all(writers: Sequence[Writer], data: bytes) -> None:
        """Send the same bytes to writers of this class, which may know a faster way than one by one."""
        for writer in writers:
            writer.write(data)

    def is_full(self) -> bool:
        """Whether more is buffered than :meth:`write` should add to; ``Peer.drained`` ends it."""

    def close(self, code: int, reason: str) -> None:
        """Send a close with ``code`` and end the connection; ``Peer.closed`` follows."""

    def pause(self) -> None:
        """Read nothing more from the peer until :meth:`resume`: what it sends waits in its socket."""

    def resume(self) -> None:
        """Read on."""


class Peer(Protocol):
    """Who is told what happens on a connection that was handed over. None of these may block."""

    def received(self, data: bytes, *, text: bool) -> None:
        """Take one message of the peer; text is valid UTF-8."""

    def most(self) -> int:
        """Return the bytes of the largest message that it takes now; a larger one closes with 1009."""

    def full(self) -> None:
        """Learn that the peer reads too slowly: the buffer is over its limit."""

    def drained(self) -> None:
        """Learn that the buffer has room again; follows each :meth:`full`."""

    def closed(self, code: int) -> None:
        """Learn that the connection has ended, with this close code. The last call."""


class Heartbeat(NamedTuple):
    """What a connection says again and again, so that nobody takes it for dead."""

    data: bytes
    """One or more whole pieces of the wire format, shared by all."""
    seconds: float
    """From one to the next, at most."""


FANOUT = "abide.fanout"
"""The ASGI extension by which a connection leaves the server's tasks: ``scope["extensions"]["abide.fanout"]``."""


class Handover(Protocol):
    """The extension in the scope of a WebSocket.

    Called once, after ``websocket.accept`` was sent: from then on the connection is the peer's,
    and the ASGI application returns. Who is on the other side is pinged anyway: a heartbeat is for
    those whom nobody shows the pings, and goes out with them.
    """

    def __call__(self, peer: Peer, heartbeat: Heartbeat | None = None) -> Writer:
        """Hand the connection over to ``peer``, who writes frames."""


DIRECT = "abide.direct"
"""Where the lifespan's ``state`` has the application's :class:`Direct`."""


class Reply(NamedTuple):
    """What a push is answered with."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, and values; without Content-Length, which the body says."""
    body: bytes


Answer = Callable[[int, tuple[tuple[bytes, bytes], ...], bytes], None]
"""Sends an answer: the parts of a :class:`Reply`."""


class Direct(Protocol):
    """Takes pushes that have arrived whole, without ASGI's task, events and scope.

    The same pushes are answered the same over ASGI, only slower: by servers that know nothing of this, and where
    something is put around :attr:`app`, such as middleware, which is to see every request.
    """

    app: object
    """The ASGI application that it answers for."""

    def parse(self, head: RequestHead) -> object | None:
        """Return what the request head of a push says; None of another request.

        The server may remember it: it is the same for the same head, whoever sends it and whenever.
        """

    def __call__(self, head: Any, client: str | None, body: bytes, answer: Answer) -> None:  # noqa: ANN401 — what ``parse`` has returned
        """Decide a push, refusals included, and ``answer`` it later, once.

        ``head`` is what :meth:`parse` has returned, ``client`` the address that the push comes from.
        """


class ResponseHandover(Protocol):
    """The extension in the scope of a GET over HTTP/1.1, which has chunks.

    Called once, after ``http.response.start`` was sent without a Content-Length: from then on the
    response is the peer's, and the ASGI application returns. :meth:`Writer.close` sends the last
    chunk and ends the connection; nothing tells the other side the code, and ``Peer.received`` is
    never called.
    """

    def __call__(self, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Hand the response over to ``peer``, who writes chunks (RFC 9112 §7.1)."""


class Meter(Protocol):
    """Who counts what happens. Told of a batch at a time, on the hottest paths; none of these may block.

    Channels are named as in requests: the meter knows which declared one each stands for.
    """

    def appended(self, messages: int, seconds: float) -> None:
        """Learn of one append: how many messages were handed to the backend, and how long it took."""

    def published(self, messages: Mapping[str, int]) -> None:
        """Learn how many messages were stored, by channel; what SQL publishes may not be declared."""

    def heard(self, seconds: float) -> None:
        """Learn how long it took from a notification's sending until this process heard it."""

    def delivered(self, channel: str, messages: int) -> None:
        """Learn how many messages were handed to connections: each message once for each of them."""

    def resumed(self, *, complete: bool) -> None:
        """Learn of a subscription that began after a position, and whether nothing was missing."""

    def missed(self, reason: str) -> None:
        """Learn of a gap that a subscriber is told of."""

    def connected(self, kind: str) -> None:
        """Learn of a connection of this kind: ``websocket``, ``sse`` or ``poll``."""

    def disconnected(self, kind: str) -> None:
        """Learn of its end."""

    def refused(self, code: str) -> None:
        """Learn of a push that was refused, or one item of it, with this error's code."""

    def failed(self, kind: str) -> None:
        """Learn of a connection or a delivery that a bug ended: ``connection``, ``delivery`` or ``request``."""

    def limited(self, limit: str) -> None:
        """Learn of somebody who met a bound of docs/security.md, by its name there."""


class _Unmetered(Meter):
    """Counts nothing."""


UNMETERED: Meter = _Unmetered()  # type: ignore[abstract] # to do nothing is what it is for
"""For whoever does not count."""


METER = "abide.meter"
"""Where the lifespan's ``state`` has the application's :class:`Meter`."""


DRAIN = "abide.drain"
"""Where a scope's ``state`` has the server's :class:`Drain`."""


class Drain(Protocol):
    """How the server ends gradually what it serves, before it stops."""

    has_begun: bool
    """Whether the server takes no new connections any more."""

    def lasting(self, end: Callable[[], object]) -> AbstractContextManager[object]:
        """Return the context in which a response lasts, until the server calls ``end``.

        It is called when the response's turn has come in the drain, or when it has lasted as long
        as a connection may; it must not block, and may be called again.
        """


INTAKE = "abide.intake"
"""Where the lifespan's ``state`` has the application's :class:`Intake`."""


class Intake(Protocol):
    """The bound over what all clients together have sent of messages that are not complete."""

    def grow(self, held: int, more: int) -> bool:
        """Count ``more`` bytes of a message that holds ``held``; return False, and count nothing, without room."""

    def release(self, held: int) -> None:
        """Count so many bytes no more."""


class _Unbounded(Intake):
    """Has room for everything."""

    def grow(self, held: int, more: int) -> bool:  # noqa: ARG002 — a bound's signature
        return True


UNBOUNDED: Intake = _Unbounded()  # type: ignore[abstract] # to release nothing is what it is for
"""For whoever keeps no bound."""
