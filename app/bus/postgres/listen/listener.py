"""The LISTEN connection: told of every commit, watched, and made again when it is lost or deaf.

A session goes: connect, check the schema, LISTEN, read the heads, then serve notifications. The heads are read after
LISTEN, so that no commit falls between. What was missed while there was no session shows in the heads, and is fetched.
So does a log that has gone back: it has another epoch.

Every role of the database can notify. So what is heard is looked through with suspicion: messages are taken
from it only where a commit of ours has sealed them (:mod:`app.bus.postgres.listen.notifications`), a heartbeat only
where it bears a token that nobody could know before it was sent, and everything else says where to look, at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import structlog

from app.bus.postgres import sql
from app.bus.postgres.listen import notifications
from app.bus.postgres.listen.follower import Follower, Place
from app.bus.postgres.listen.outbox_mover import DrainError, Outbox
from app.bus.postgres.migrations import EMPTY, ensure
from app.bus.postgres.outcomes import Outcomes
from app.bus.postgres.seen import Seen
from app.bus.postgres.sessions import slow
from app.bus.postgres.sessions.dsn import Dsn
from app.bus.postgres.sessions.faults import ELSEWHERE, POOLER, SEAL_UNREADABLE, explain
from app.bus.postgres.sessions.work_connection import LOST, Session, close, connect, is_over
from app.core.epochs import name
from app.core.errors import UnavailableError
from app.core.ports import Meter

_POLL_SECONDS = 1.5
"""Between two looks at the heads. A heartbeat that is heard takes the place of one, but not of two in a row."""
_SOONEST_SECONDS = 0.05
"""Between two polls that are asked for."""
_HEARTBEAT_SECONDS = 3.0
_DEAF_SECONDS = 3.0
"""A heartbeat that was sent and not heard for so long means that LISTEN hears nothing."""
_ANSWER_SECONDS = 3.0

_HINT_SECONDS, _MESSAGE_SECONDS = 0.004, 0.04
"""So much of one turn of the event loop what is heard may take: hints, and messages, which have to be proved. What
comes later in the turn is dropped, and the poll finds what it told: anybody can notify any number of times."""

_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.02, 1.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Session:
    """One connection's life. Nothing of an earlier one can reach a later one: it has its own of everything."""

    connection: Session
    server: str = ""
    """Which database it is in, as server.sql has it."""
    seal: notifications.Seal | None = None
    """What messages are proved by; without it they are hints."""
    bells: bool = True
    """Whether publishers in SQL ring."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    sent: int = 0
    heard: int = 0
    sent_at: float = 0.0
    unheard_since: float = field(default_factory=time.monotonic)
    """When the first heartbeat was sent that was not heard; valid while one is not heard."""
    beats: dict[str, int] = field(default_factory=dict)
    """Tokens of the heartbeats that were not heard yet, and their numbers."""
    hearing_since: float = 0.0
    """When the first notification was heard in this turn of the event loop; 0 before."""
    looked: int = 0
    """A later heartbeat shows that nothing that was notified has been missed since the last look."""

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.turn:
            rows: list[asyncpg.Record] = await self.connection.fetch(query, *arguments, timeout=_ANSWER_SECONDS)
            return rows

    async def lead(self, seconds: float) -> bool | None:
        leads: bool | None = await self._ask("SELECT abide.lead($1)", round(seconds * 1000))
        return leads

    async def stay_awake(self, seconds: float) -> None:
        await self._ask("SELECT abide.stay_awake($1)", round(seconds * 1000))

    async def publishing(self) -> bool:
        return bool(await self._ask(sql.query("publishing")))

    async def _ask(self, query: str, *arguments: object) -> Any:  # noqa: ANN401 — one value of the database's
        try:
            return (await self.fetch(query, *arguments))[0][0]
        except asyncpg.PostgresError as error:
            if is_over(error):
                raise
            raise DrainError(explain(error)) from error

    def spent(self) -> float:
        """Return for how many seconds of this turn of the event loop notifications have been heard."""
        now = time.perf_counter()
        if not self.hearing_since:
            self.hearing_since = now
            asyncio.get_running_loop().call_soon(self._end_turn)
        return now - self.hearing_since

    def _end_turn(self) -> None:
        self.hearing_since = 0.0

    def is_deaf(self) -> bool:
        return self.heard < self.sent and time.monotonic() - self.unheard_since > _DEAF_SECONDS


class Listener:
    """Keeps a session alive. ``notify`` sends a notification by another connection, and returns which database it was.

    Without ``inline``, or the right to read the seal, nothing heard is taken for more than a hint.
    """

    def __init__(  # noqa: PLR0913, PLR0917 — whom it hears for, and whom it tells
        self,
        dsn: Dsn,
        follower: Follower,
        outbox: Outbox,
        notify: Callable[[str], Awaitable[str]],
        meter: Meter,
        outcomes: Outcomes,
        *,
        inline: bool,
    ) -> None:
        self._dsn = dsn
        self._follower = follower
        self._outbox = outbox
        self._notify = notify
        self._meter = meter
        self._outcomes = outcomes
        self._inline = inline
        self._backoff = _SHORTEST_BACKOFF
        self._warned = False
        self._seen = Seen()
        self._asked = asyncio.Event()
        """Set to have the heads read soon."""
        self.sessions = 0
        self._said = ""
        """Why the last session was lost, since there was one that heard."""
        self.ready = asyncio.Event()
        """Set from the first session on."""

    def look(self) -> None:
        """Read the heads soon: somebody has seen the log in another epoch."""
        self._asked.set()

    async def run(self) -> None:
        """Have one session after the other; never returns."""
        while True:
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
        if reason != self._said:
            _log.warning("listener_lost", database=self._dsn.place, reason=reason)
        self._said = reason
        self._outcomes.failed("listen", reason)

    async def _one_session(self) -> None:
        async with self._session() as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._outbox.run(session)), group.create_task(self._heartbeats(session))]
            try:
                await self._watch(session)
            finally:
                for task in tasks:
                    task.cancel()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[_Session]:
        connection = await connect(self._dsn, "abide listen")
        session = _Session(connection)
        self.sessions += 1
        if connection.pooled:  # maybe one that gives us a session to keep: then it will hear
            self._outcomes.waits(POOLER)
        try:
            connection.add_termination_listener(lambda _: self._ended(session))
            await ensure(connection, may_create=not self._seen)
            session.server, session.bells = (await session.fetch(sql.query("server")))[0]
            session.seal = await self._read_seal(session)
            await connection.add_listener(
                notifications.TOPIC, lambda _, __, ___, payload: self._heard(session, payload)
            )
            await self._read_heads(session)
            self.ready.set()
            self._seen.note()
            self._backoff = _SHORTEST_BACKOFF  # it is only for a database that lets nobody in
            yield session
        finally:
            await close(connection)

    def _ended(self, session: _Session) -> None:
        session.lost.set()
        self._asked.set()

    async def _read_seal(self, session: _Session) -> notifications.Seal | None:
        if not self._inline:
            return None
        try:
            rows = await session.fetch(sql.query("seal"))
        except asyncpg.InsufficientPrivilegeError:
            if not self._warned:
                _log.warning("seal_unreadable", database=self._dsn.place, detail=SEAL_UNREADABLE)
            self._warned = True
            return None
        return notifications.Seal(*rows[0]) if rows else None

    async def _watch(self, session: _Session) -> None:
        """Return when the session is lost; raise when it turns out to be of no use."""
        due = True
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), _POLL_SECONDS)
                await asyncio.sleep(_SOONEST_SECONDS)
            due = due or self._asked.is_set() or session.heard <= session.looked
            session.looked = session.heard
            self._asked.clear()
            if session.lost.is_set():
                msg = "the server closed the connection"
                raise UnavailableError(msg)
            if session.is_deaf():
                raise UnavailableError(self._deaf(session))
            try:
                await slow.look(session.fetch, self._outcomes)
                if due:
                    await self._read_heads(session)
                    self._outcomes.worked("poll")
                due = not due
            except asyncpg.PostgresError as error:
                if is_over(error):
                    raise
                self._outcomes.failed("poll", explain(error))

    def _deaf(self, session: _Session) -> str:
        if session.heard:
            return "LISTEN hears nothing any more"
        if session.connection.pooled:
            return POOLER
        return f"LISTEN on {self._dsn.place} hears nothing. Is it another database than DATABASE_URL's, or: {POOLER}"

    async def _read_heads(self, session: _Session) -> None:
        before = self._follower.places()
        rows = await session.fetch(sql.query("heads"), list(before))
        if not rows:
            raise UnavailableError(EMPTY)
        epoch: str = rows[0]["epoch"]
        if rows[0]["waiting"]:
            self._outbox.ring()
        heads = {row["channel"]: row["head"] for row in rows}
        lower = any(
            name(place.lineage) == epoch and heads.get(c, place.head) < place.head for c, place in before.items()
        )
        if lower or not rows[0]["certified"]:
            epoch = await self._enter(session, epoch if lower else None) or epoch
        doubtful = [
            channel
            for channel, place in before.items()
            if name(place.lineage) != epoch or heads.get(channel, place.head) < place.head
        ]
        if doubtful:
            await self._judge(session, {channel: before[channel].head for channel in doubtful})
        self._follower.epoch, self._follower.seen = epoch, time.monotonic()
        for channel, head in heads.items():
            if channel is not None:
                self._follower.look(channel, head)

    async def _enter(self, session: _Session, over: str | None) -> str | None:
        """Open an epoch; return its name, or None where nothing can be written: then nothing else can come either."""
        try:
            opened: str = (await session.fetch("SELECT abide.enter($1)", over))[0][0]
        except asyncpg.ReadOnlySQLTransactionError:
            return None
        return opened

    async def _judge(self, session: _Session, asked: dict[str, int]) -> None:
        for row in await session.fetch(sql.query("place"), list(asked)):
            self._follower.judge(row["channel"], asked[row["channel"]], Place(row["lineage"], row["head"]))

    async def _heartbeats(self, session: _Session) -> None:
        while True:
            token = secrets.token_hex(8)
            session.beats[token] = session.sent + 1
            session.sent_at = time.monotonic()
            try:
                server = await self._notify(f"h {token}")
            except (UnavailableError, asyncpg.PostgresError, *LOST):  # the probe has told why
                session.beats.pop(token, None)
            else:
                if server != session.server:
                    raise UnavailableError(ELSEWHERE)
                if session.heard >= session.sent:
                    session.unheard_since = time.monotonic()
                session.sent += 1
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    def _heard(self, session: _Session, payload: object) -> None:
        text = str(payload)
        spent = session.spent()
        match text[:1]:
            case "h":
                self._heartbeat_heard(session, text[2:])
            case "e" if spent < _MESSAGE_SECONDS:
                self._messages_heard(session, text, hint=spent < _HINT_SECONDS)
            case "d" if spent < _HINT_SECONDS:
                for channel, head in notifications.doorbell(text):
                    self._follower.look(channel, head)
            case "b" if spent < _HINT_SECONDS:
                self._outbox.ring()
            case "e" | "d" | "b":
                session.looked = session.sent + 1  # the next look is due

    def _messages_heard(self, session: _Session, text: str, *, hint: bool) -> None:
        heard = notifications.inline(text)
        if heard is None or heard.channel not in self._follower:
            return
        if session.seal is not None and session.seal.proves(heard):
            self._follower.hear(heard.channel, heard.epoch, heard.messages())
            if heard.epoch != self._follower.epoch:
                self.look()
        elif hint:
            self._follower.look(heard.channel, heard.last)

    def _heartbeat_heard(self, session: _Session, token: str) -> None:
        number = session.beats.pop(token, None)
        if number is None:
            return
        session.heard = max(session.heard, number)
        if session.heard >= session.sent:  # it is the newest, and may be heard before the database says it is sent
            self._meter.heard(time.monotonic() - session.sent_at)
        if not self._outcomes.listens():
            _log.info("listening", database=self._dsn.place)
            self._said = ""
        self._outcomes.worked("listen")
