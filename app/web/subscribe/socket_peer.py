"""What both forms of a subscriber's WebSocket have in common.

Nothing here waits: the server calls a connection when something happens, and it has no task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from copy import copy

from app.core.channel import Channel
from app.core.delivery.hub import Hub
from app.core.draft import Draft
from app.core.errors import CLOSE_CODES, AbideError, NoRoomError, UnsupportedTypeError, of_bug
from app.core.limits.limiter import Limiter
from app.core.message import Published
from app.core.ports import Publisher, Writer
from app.core.rights.policy import Identity
from app.web.edge.access import Line
from app.web.edge.doors import Doors
from app.web.subscribe.guard import guarded, report
from app.wire.close_codes import CloseCode, fit_reason

_running: set[asyncio.Task[None]] = set()
"""Keeps the tasks of connections alive: the event loop refers to them only weakly."""


class SocketPeer:
    """One subscriber's WebSocket: its log line, its writer, and the text that it sent last.

    A :class:`~app.core.ports.Peer`. Each form implements :meth:`handle`, :meth:`max_size`, :meth:`stall`,
    :meth:`go_on` and :meth:`release`. Invariant: nothing is read while a text is being handled, or while the writer is
    full. So a subscriber that sends and does not read makes the server hold at most one answer beyond its buffer.
    """

    __slots__ = ("_handling", "_line", "_writer", "doors", "hub", "identity", "is_over", "limiter", "publisher")

    def __init__(  # noqa: PLR0913, PLR0917 — what a connection uses
        self, hub: Hub, doors: Doors, publisher: Publisher, limiter: Limiter, identity: Identity, line: Line
    ) -> None:
        self.hub = hub
        self.doors = doors
        self.limiter = limiter
        self.publisher = publisher
        self.identity = identity
        self._line = line
        self._writer: Writer
        """Valid once the form has begun."""
        self._handling = False
        self.is_over = False
        """Whether the connection has ended and released everything: what it acquires now it must release at once."""
        hub.meter.connected("websocket")

    # Called by the server.

    @guarded
    def received(self, data: bytes, *, text: bool) -> None:
        """Handle a message of the subscriber."""
        if not text:
            self.fail(UnsupportedTypeError("messages are text frames of JSON: this frame is binary"))
            return
        if not self.limiter.intake.grow(0, len(data)):
            self.hub.meter.limited("frames_held")
            self.fail(NoRoomError("the server holds too many unfinished messages: reconnect and resume"))
            return
        self._handling = True
        self._writer.pause()
        _start(self._handle(data))

    @guarded
    def full(self) -> None:
        """Send nothing more until :meth:`writable`."""
        self.stall()

    @guarded
    def writable(self) -> None:
        """Send and read again."""
        self.go_on()
        self._read_on()

    def max_size(self) -> int:
        """Return the size of the largest text that is accepted now, in bytes."""
        raise NotImplementedError

    def closed(self, code: int) -> None:
        """Release everything, and write the log line."""
        self.is_over = True
        self.hub.leave(self)
        self.hub.meter.disconnected("websocket")
        try:
            self.release(self._line)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            report(error, self._line, self.hub.meter)
        self._line.close_code = code
        self._line.write()

    # How the connection ends.

    def fail(self, error: AbideError) -> None:
        """Close the connection with an error."""
        self._line.close_reason = fit_reason(str(error))
        code = CLOSE_CODES[error.code]
        if code is CloseCode.INTERNAL_ERROR:
            report(error, self._line, self.hub.meter)
        self._writer.close(code, self._line.close_reason)

    def crash(self, error: BaseException) -> None:
        """Close the connection because of a bug."""
        self.fail(of_bug(error))

    # What each form implements.

    async def handle(self, text: bytes) -> None:
        """Do what one text asks for; an error closes the connection."""
        raise NotImplementedError

    def stall(self) -> None:
        """Send nothing more until :meth:`go_on`."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Send again, from where :meth:`stall` stopped."""
        raise NotImplementedError

    def release(self, line: Line) -> None:
        """Unsubscribe from everything, and note in the log line how many messages were sent."""
        raise NotImplementedError

    async def publish(self, channel: Channel, name: str, data: bytes, key: str | None = None) -> Published:
        """Publish checked JSON for the subscriber; raise :class:`~app.core.errors.AbideError` if it is refused."""
        question = channel.check_client_publish(name, self.identity)
        identity = await self.doors.authenticator.admitted(question, self.identity)
        record = await Draft(channel, name, data, key, identity.name).read_record()
        self.limiter.rates.take(channel, name, identity.name, self._line.client)
        (outcome,) = await self.publisher.publish([record])
        if isinstance(outcome, AbideError):
            raise copy(outcome)  # other publishers may get the same error
        return outcome

    async def _handle(self, text: bytes) -> None:
        try:
            await self.handle(text)
        except AbideError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            self.crash(error)
        finally:
            self.limiter.intake.release(len(text))
        self._handling = False
        self._read_on()

    def _read_on(self) -> None:
        """Read on, unless a text is being handled or the writer is full."""
        if not self._handling and not self._writer.is_full():
            self._writer.resume()


def _start(work: Coroutine[None, None, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
