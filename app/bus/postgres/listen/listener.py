"""The listener: keeps one session that listens, watches it, and makes another when it is lost or deaf.

A session connects, checks the schema, listens, reads the heads, and then serves notifications. It reads the heads after
LISTEN, so that no commit falls between. The heads show what was missed while there was no session, and it is fetched.
They show as well that the log has gone back: then it has another epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import structlog

from app.bus.ending import is_ending
from app.bus.follower import Follower
from app.bus.outcomes import Outcomes
from app.bus.postgres.listen import heads, notifications, slow
from app.bus.postgres.listen.hearing import Hearing
from app.bus.postgres.listen.listen_session import ListenSession
from app.bus.postgres.listen.outbox_mover import OutboxMover
from app.bus.postgres.migrations import ensure
from app.bus.postgres.sessions.dsn import Dsn
from app.bus.postgres.sessions.faults import ELSEWHERE, POOLER, SEAL_UNREADABLE, explain
from app.bus.postgres.sessions.session import LOST, close, connect, is_over
from app.bus.seen import Seen
from app.core.errors import UnavailableError
from app.core.ports import Meter

_POLL_SECONDS = 1.5
"""Between two looks at the heads. A heartbeat that is heard takes the place of one, but not of two in a row."""
_SOONEST_SECONDS = 0.05
"""The least time between two requested looks."""
_HEARTBEAT_SECONDS = 3.0

_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.02, 1.0

_log = structlog.get_logger(__name__)


class Listener:
    """Keeps a session alive. ``notify`` sends a notification by another connection, and returns which database it was.

    Without ``inline``, or the right to read the seal, everything heard is a hint.
    """

    def __init__(  # noqa: PLR0913, PLR0917 — whom it hears for, and whom it tells
        self,
        dsn: Dsn,
        follower: Follower,
        mover: OutboxMover,
        notify: Callable[[str], Awaitable[str]],
        meter: Meter,
        outcomes: Outcomes,
        *,
        inline: bool,
    ) -> None:
        self._dsn = dsn
        self._follower = follower
        self._mover = mover
        self._notify = notify
        self._meter = meter
        self._outcomes = outcomes
        self._inline = inline
        self._backoff = _SHORTEST_BACKOFF
        self._warned = False
        self._seen = Seen()
        self._asked = asyncio.Event()
        """Set to have the heads read soon."""
        self._said = ""
        """Why the last session was lost, since there was one that heard."""
        self.sessions = 0
        """How many there have been."""
        self.ready = asyncio.Event()
        """Set from the first session on."""

    @property
    def epoch(self) -> str:
        """The name of the log's newest epoch; empty until it is known."""
        return self._follower.epoch

    def look(self) -> None:
        """Read the heads soon, because a reader has seen the log in another epoch."""
        self._asked.set()

    async def run(self) -> None:
        """Have one session after the other, until it is cancelled."""
        while not is_ending():
            try:
                await self._one_session()
            except Exception as error:  # noqa: BLE001 — whatever ended it, there must be another
                self._lost(error)
            await asyncio.sleep(random.uniform(0, self._backoff))  # noqa: S311 — jitter, not a secret
            self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)

    def _lost(self, error: Exception) -> None:
        while isinstance(error, ExceptionGroup):  # the first of the session's tasks that failed
            error = error.exceptions[0]
        reason = explain(error)
        if reason != self._said and self.ready.is_set():
            _log.warning("listener_lost", database=self._dsn.place, reason=reason)
        elif reason != self._said:
            _log.warning("not_listening", database=self._dsn.place, reason=reason)
        self._said = reason
        self._outcomes.failed("listen", reason)

    async def _one_session(self) -> None:
        async with self._session() as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._mover.run(session)), group.create_task(self._send_heartbeats(session))]
            try:
                await self._watch(session)
            finally:
                for task in tasks:
                    task.cancel()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[ListenSession]:
        connection = await connect(self._dsn, "abide listen")
        session = ListenSession(connection)
        self.sessions += 1
        if connection.pooled:  # the pooler may give us a session to keep: then it will hear
            self._outcomes.waits(POOLER)
        try:
            connection.add_termination_listener(lambda _: self._ended(session))
            await ensure(connection, may_create=not self._seen)
            session.server, session.bells = (await session.fetch("server"))[0]
            session.seal = await self._read_seal(session)
            hearing = self._hearing(session)
            self._follower.hold()
            await connection.add_listener(notifications.TOPIC, lambda _, __, ___, payload: hearing.hear(payload))
            await heads.compare(session, self._follower, self._mover)
            self.ready.set()
            self._seen.note()
            self._backoff = _SHORTEST_BACKOFF  # it is only for a database that lets nobody in
            yield session
        finally:
            await close(connection)

    def _hearing(self, session: ListenSession) -> Hearing:
        return Hearing(
            self._follower, self._mover, session.heartbeats, session.seal, self.look, lambda: self._alive(session)
        )

    def _ended(self, session: ListenSession) -> None:
        session.lost.set()
        self._asked.set()

    async def _read_seal(self, session: ListenSession) -> notifications.Seal | None:
        if not self._inline:
            return None
        try:
            rows = await session.fetch("seal")
        except asyncpg.InsufficientPrivilegeError:
            if not self._warned:
                _log.warning("seal_unreadable", database=self._dsn.place, detail=SEAL_UNREADABLE)
            self._warned = True
            return None
        return notifications.Seal(*rows[0]) if rows else None

    async def _watch(self, session: ListenSession) -> None:
        """Look at the session again and again; raise when it is lost or of no more use."""
        is_due = True
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._asked.wait()
                await asyncio.sleep(_SOONEST_SECONDS)
            vouched = session.heartbeats.vouch()
            is_due = is_due or self._asked.is_set() or not vouched
            self._asked.clear()
            if session.lost.is_set():
                msg = "the server closed the connection"
                raise UnavailableError(msg)
            if session.heartbeats.is_deaf():
                raise UnavailableError(self._deaf(session))
            try:
                await slow.look(session.fetch, self._outcomes)
                if is_due:
                    await heads.compare(session, self._follower, self._mover)
                    self._outcomes.worked("poll")
                is_due = not is_due
            except asyncpg.PostgresError as error:
                if is_over(error):
                    raise
                self._outcomes.failed("poll", explain(error))

    def _deaf(self, session: ListenSession) -> str:
        if session.heartbeats.are_heard:
            return "LISTEN hears nothing any more"
        if session.connection.pooled:
            return POOLER
        return f"LISTEN on {self._dsn.place} hears nothing. Is it another database than DATABASE_URL's, or: {POOLER}"

    async def _send_heartbeats(self, session: ListenSession) -> None:
        while True:
            token = session.heartbeats.next()
            try:
                server = await self._notify(f"h {token}")
            except (UnavailableError, asyncpg.PostgresError, *LOST):  # the probe has told why
                session.heartbeats.not_sent(token)
            else:
                if server != session.server:
                    self._outcomes.failed("listen", ELSEWHERE)  # now: to close the session may take a moment
                    raise UnavailableError(ELSEWHERE)
                session.heartbeats.sent()
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    def _alive(self, session: ListenSession) -> None:
        latency = session.heartbeats.latency()
        if latency is not None:
            self._meter.heard(latency)
        if not self._outcomes.listens():
            _log.info("listening", database=self._dsn.place)
            self._said = ""
        self._outcomes.worked("listen")
