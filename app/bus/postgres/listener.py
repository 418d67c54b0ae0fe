"""The LISTEN connection: told of every commit, watched, and made again when it is lost or deaf.

A session goes: connect, check the schema, LISTEN, read the heads, then serve notifications. The
heads are read after LISTEN, so that no commit falls between. What was missed while there was no
session shows in the heads, and is fetched.

Every role of the database can notify. So what is heard is looked through with suspicion: messages are taken
from it only where a commit of ours has sealed them (:mod:`app.bus.postgres.wire`), a heartbeat only where it
bears a token that nobody could know before it was sent, and everything else says where to look, at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg
import structlog

from app.bus import sql
from app.bus.postgres import wire
from app.bus.postgres.dsn import Dsn
from app.bus.postgres.follower import Follower
from app.bus.postgres.link import connect, describe
from app.bus.postgres.migrations import ensure
from app.bus.postgres.outbox import Outbox
from app.core.errors import UnavailableError
from app.core.ports import Meter

_POLL_SECONDS = 1.0
_HEARTBEAT_SECONDS = 2.0
_DEAF_SECONDS = 3.0
"""A heartbeat that was sent and not heard for so long means that LISTEN hears nothing."""
_ANSWER_SECONDS = 3.0

_HINT_SECONDS, _MESSAGE_SECONDS = 0.004, 0.04
"""So much of one turn of the event loop what is heard may take: hints, and messages, which have to be proved. What
comes later in the turn is dropped, and the poll finds what it told: anybody can notify any number of times."""

_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.02, 1.0

_SEAL_UNREADABLE = (
    "messages in notifications cannot be told from forged ones, so each is read from the log: "
    "GRANT SELECT ON abide.seal TO the server's role"
)

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Session:
    """One connection's life. Nothing of an earlier one can reach a later one: it has its own of everything."""

    connection: asyncpg.Connection
    seal: wire.Seal | None = None
    """What messages are proved by; without it they are hints."""
    bells: bool = True
    """Whether publishers in SQL ring; where transactions can be prepared they do not."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    sent: int = 0
    heard: int = 0
    sent_at: float = 0.0
    """When the newest heartbeat was sent."""
    unheard_since: float = field(default_factory=time.monotonic)
    """When the first heartbeat was sent that was not heard, or the session began; valid while one is not heard."""
    unsent: str = ""
    """Why the last heartbeat could not be sent, if any could not."""
    beats: dict[str, int] = field(default_factory=dict)
    """Tokens of the heartbeats that were not heard yet, and their numbers."""
    hearing_since: float = 0.0
    """When the first notification was heard in this turn of the event loop; 0 before."""

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.turn:
            rows: list[asyncpg.Record] = await self.connection.fetch(query, *arguments, timeout=_ANSWER_SECONDS)
            return rows

    async def lead(self, seconds: float) -> bool | None:
        leads: bool | None = (await self.fetch("SELECT abide.lead($1)", round(seconds * 1000)))[0][0]
        return leads

    async def stay_awake(self, seconds: float) -> None:
        await self.fetch("SELECT abide.stay_awake($1)", round(seconds * 1000))

    async def publishing(self) -> bool:
        return bool((await self.fetch(sql.query("publishing")))[0][0])

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
        # A session in which no heartbeat could even be sent has heard as little.
        return self.heard < max(self.sent, 1) and time.monotonic() - self.unheard_since > _DEAF_SECONDS


class Listener:
    """Keeps a session alive. ``notify`` sends a notification by another connection.

    Without ``inline``, or the right to read the seal, nothing heard is taken for more than a hint.
    """

    def __init__(  # noqa: PLR0913 — whom it hears for, and whom it tells
        self,
        dsn: Dsn,
        follower: Follower,
        outbox: Outbox,
        notify: Callable[[str], Awaitable[None]],
        meter: Meter,
        *,
        inline: bool,
    ) -> None:
        self._dsn = dsn
        self._follower = follower
        self._outbox = outbox
        self._notify = notify
        self._meter = meter
        self._inline = inline
        self._backoff = _SHORTEST_BACKOFF
        self._warned = False
        self.epoch: str | None = None
        """The log's; None until the first session."""
        self.error: str | None = "not connected yet"
        """Why it hears nothing; None while it does."""
        self.ready = asyncio.Event()
        """Set from the first session on, unless the log turns out to be another one."""

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
        reason = str(error) if isinstance(error, UnavailableError) else describe(error)
        if reason != self.error:
            _log.warning("listener_lost", database=self._dsn.place, reason=reason)
        self.error = reason

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
        try:
            connection.add_termination_listener(lambda _: session.lost.set())
            self._check_epoch(await ensure(connection))
            session.bells = (await session.fetch("SHOW max_prepared_transactions"))[0][0] == "0"
            session.seal = await self._read_seal(session)
            self._follower.listen_from((await session.fetch("SELECT abide.now_ms()"))[0][0])
            await connection.add_listener(wire.TOPIC, lambda _, __, ___, payload: self._heard(session, payload))
            await self._read_heads(session)
            self._backoff = _SHORTEST_BACKOFF  # it is only for a database that lets nobody in
            yield session
        finally:
            connection.terminate()

    async def _read_seal(self, session: _Session) -> wire.Seal | None:
        if not self._inline:
            return None
        try:
            rows = await session.fetch(sql.query("seal"))
        except asyncpg.InsufficientPrivilegeError:
            if not self._warned:
                _log.warning("seal_unreadable", database=self._dsn.place, detail=_SEAL_UNREADABLE)
            self._warned = True
            return None
        return wire.Seal(*rows[0]) if rows else None

    def _check_epoch(self, epoch: str) -> None:
        if self.epoch not in (None, epoch):
            self.ready.clear()
            msg = "the database has another epoch than at start, as after a new installation: restart the server"
            raise UnavailableError(msg)
        self.epoch = self._follower.epoch = epoch
        self.ready.set()

    async def _watch(self, session: _Session) -> None:
        """Return when the session is lost; raise when it turns out to be of no use."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.lost.wait(), _POLL_SECONDS)
            if session.lost.is_set():
                msg = "the server closed the connection"
                raise UnavailableError(msg)
            if session.is_deaf():
                raise UnavailableError(self._deaf(session))
            await self._read_heads(session)

    def _deaf(self, session: _Session) -> str:
        if session.heard:
            return "LISTEN hears nothing any more"
        if not session.sent and "prepared statement" not in session.unsent:
            return f"no heartbeat could be sent: {session.unsent}"
        return (
            f"LISTEN on {self._dsn.place} hears nothing: it seems to be a pooler in transaction mode. "
            "Set DIRECT_DATABASE_URL to the database's own address"
        )

    async def _read_heads(self, session: _Session) -> None:
        before = self._follower.positions()
        rows = await session.fetch(sql.query("heads"), list(before))
        self._check_epoch(rows[0]["epoch"])
        if rows[0]["waiting"]:
            self._outbox.ring()
        heads = {row["channel"]: row["head"] for row in rows}
        for channel, handed in before.items():
            head = heads.get(channel, 0)
            if head < handed:
                _log.error("log_went_back", channel=channel, handed_out=handed, head=head)
                self._follower.rewind(channel, head, rows[0]["now"])
            else:
                self._follower.look(channel, head)

    async def _heartbeats(self, session: _Session) -> None:
        while True:
            token = secrets.token_hex(8)
            session.beats[token] = session.sent + 1
            session.sent_at = time.monotonic()
            try:
                await self._notify(f"h {token}")
            except (UnavailableError, asyncpg.PostgresError, *_TRANSIENT) as error:
                session.beats.pop(token, None)
                session.unsent = describe(error)
            else:
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
            case "m" if spent < _MESSAGE_SECONDS:
                self._messages_heard(session, text, hint=spent < _HINT_SECONDS)
            case "d" if spent < _HINT_SECONDS:
                for channel, head in wire.doorbell(text):
                    self._follower.look(channel, head)
            case "b" if spent < _HINT_SECONDS:
                self._outbox.ring()

    def _messages_heard(self, session: _Session, text: str, *, hint: bool) -> None:
        heard = wire.inline(text)
        if heard is None or heard.channel not in self._follower:
            return
        if session.seal is not None and session.seal.proves(heard):
            self._follower.hear(heard.batch(self._follower.epoch))
        elif hint:
            self._follower.look(heard.channel, heard.last)

    def _heartbeat_heard(self, session: _Session, token: str) -> None:
        number = session.beats.pop(token, None)
        if number is None:
            return
        session.heard = max(session.heard, number)
        if session.heard >= session.sent:  # it is the newest, and may be heard before the database says it is sent
            self._meter.heard(time.monotonic() - session.sent_at)
        if self.error is not None:
            _log.info("listening", database=self._dsn.place)
            self.error = None


_TRANSIENT = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
