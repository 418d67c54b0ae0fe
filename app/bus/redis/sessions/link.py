"""One connection that hears topics of one server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from app.bus.redis.sessions.beats import DEAF_SECONDS, Beats
from app.bus.redis.sessions.session import Session
from app.core.errors import UnavailableError

_TURN = 64
"""How many messages may be taken in before other tasks get their turn."""

_MOVED = "topics have moved to another node of the cluster"


class Link:
    """A connection that subscribes. ``is_sharded`` uses the pub/sub of clusters, where a topic belongs to a slot."""

    def __init__(
        self,
        session: Session,
        beats: Beats,
        heard: Callable[[str, bytes], None],
        alive: Callable[[float], None],
        *,
        is_sharded: bool,
    ) -> None:
        self.beats = beats
        self._session = session
        self._heard = heard
        self._alive = alive
        self._prefix = "S" if is_sharded else ""
        self._kinds: dict[bytes, Callable[[str, bytes], None]] = {
            b"smessage" if is_sharded else b"message": self._message,
            b"ssubscribe" if is_sharded else b"subscribe": self._subscribed,
            b"sunsubscribe" if is_sharded else b"unsubscribe": self._unsubscribed,
        }
        self._commands: list[tuple[str, ...]] = []
        """What is to be written, in order."""
        self._news = asyncio.Event()
        self._pending: dict[str, deque[asyncio.Future[bool]]] = {}
        """Who waits for the answer to a subscription, by topic, in the order in which they were sent."""
        self._leaving: dict[str, int] = {}
        """How many answers to UNSUBSCRIBE are still to come, by topic."""
        self._answered = float("-inf")
        """When a subscription was last answered."""
        self._is_closed = False

    def is_deaf(self) -> bool:
        """Whether a beat has not been heard for too long, though it does not wait behind answers to subscriptions."""
        return self.beats.is_deaf() and time.monotonic() - self._answered > DEAF_SECONDS

    async def run(self) -> None:
        """Write what is asked for, and take in what is heard, until the connection is lost. Raises the reason."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._read())

    async def add(self, topics: Sequence[str]) -> bool:
        """Subscribe to topics of this server; return True when it has answered, or False when it never will."""
        if self._is_closed:
            return False
        answers = [self._expect(topic) for topic in topics]
        if self._prefix:  # one command may only name topics of one slot
            self._commands += [("SSUBSCRIBE", topic) for topic in topics]
        else:
            self._commands.append(("SUBSCRIBE", *topics))
        self._news.set()
        return all([await answer for answer in answers])

    def remove(self, topic: str) -> None:
        """Unsubscribe."""
        self._leaving[topic] = self._leaving.get(topic, 0) + 1
        self._commands.append((f"{self._prefix}UNSUBSCRIBE", topic))
        self._news.set()

    async def close(self) -> None:
        """Close the connection. Never raises."""
        self._is_closed = True
        await self._session.close()
        for waiting in self._pending.values():
            for answer in waiting:
                if not answer.done():
                    answer.set_result(False)

    def _expect(self, topic: str) -> asyncio.Future[bool]:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pending.setdefault(topic, deque()).append(answer)
        return answer

    async def _write(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            commands, self._commands = self._commands, []
            await self._session.send(commands)

    async def _read(self) -> None:
        taken = 0
        while True:
            kind, topic, what = await self._session.hear()
            self._kinds[kind](topic.decode(), what)
            taken += 1
            if taken % _TURN == 0:
                await asyncio.sleep(0)

    def _message(self, topic: str, payload: bytes) -> None:
        if topic != self.beats.topic:
            self._heard(topic, payload)
        elif (seconds := self.beats.heard(payload.decode(errors="replace"))) is not None:
            self._alive(seconds)

    def _subscribed(self, topic: str, _: object) -> None:
        self._answered = time.monotonic()
        waiting = self._pending[topic]
        answer = waiting.popleft()
        if not waiting:
            del self._pending[topic]
        if not answer.done():
            answer.set_result(True)

    def _unsubscribed(self, topic: str, _: object) -> None:
        left = self._leaving.pop(topic, 0)
        if not left:
            raise UnavailableError(_MOVED)
        if left > 1:
            self._leaving[topic] = left - 1
