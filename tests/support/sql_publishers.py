"""A publisher in SQL that keeps a ledger: it publishes in transactions, in every way that a transaction can end."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import asyncpg

from tests.support.verdict import Ledger, Timeline

UNANSWERED = (
    OSError,
    EOFError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)
"""What a database that breaks says, or leaves unsaid. Anything else is a fault of what is tested, and is raised."""

RESTORING = (
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedTableError,
    asyncpg.InternalServerError,
    asyncpg.TransactionRollbackError,
)
"""What is said besides while it is restored: what is asked for is not there, or gone in the middle of it."""

SECONDS = 10.0
"""The longest that an answer is waited for."""

PAUSE = 0.05
"""Seconds before it tries again."""

WAYS = ("commit", "save", "roll back", "insist")
"""How a transaction may end everywhere."""

PREPARED_WAYS = ("prepare", "prepare and roll back")
"""How it may end where ``max_prepared_transactions`` allows it."""


_FORMS = ("to_jsonb($2::text)", "to_json($2::text)", "to_json($2::text)::text")


class SqlPublisher:
    """Publishes by ``abide.publish``, on a new connection for each transaction.

    ``url`` is the database's own address. Data is text, which becomes a JSON string. ``unanswered`` is what leaves it
    without an answer where more is broken than usual.
    """

    def __init__(
        self,
        url: str,
        ledger: Ledger,
        timeline: Timeline,
        *,
        unanswered: tuple[type[BaseException], ...] = UNANSWERED,
    ) -> None:
        self._url = url
        self._unanswered = unanswered
        self._ledger = ledger
        self._timeline = timeline

    async def publish(self, way: str, channel: str, datas: Sequence[str]) -> None:
        """Publish messages in one transaction that ends in one of :data:`WAYS` or :data:`PREPARED_WAYS`.

        Returns when it has ended, as far as anybody can tell.
        """
        ways: dict[str, Callable[[str, Sequence[str]], Awaitable[None]]] = {
            "commit": self._commit,
            "save": self._save,
            "roll back": self._roll_back,
            "insist": self._insist,
            "prepare": partial(self._prepare, commit=True),
            "prepare and roll back": partial(self._prepare, commit=False),
        }
        try:
            await ways[way](channel, datas)
        except self._unanswered as error:
            self._note(way, channel, error)

    async def _commit(self, channel: str, datas: Sequence[str]) -> None:
        async with self._transaction() as connection:
            for data in datas:
                await _say(connection, channel, data)
            await self._end(connection, channel, datas)

    async def _save(self, channel: str, datas: Sequence[str]) -> None:
        """Publish each message within a savepoint, and another one that is taken back."""
        async with self._transaction() as connection:
            for data in datas:
                await connection.execute("SAVEPOINT kept")
                await _say(connection, channel, data)
                await connection.execute("SAVEPOINT gone")
                await _say(connection, channel, f"taken back: {data}")
                await connection.execute("ROLLBACK TO SAVEPOINT gone")
                await connection.execute("RELEASE SAVEPOINT kept")
            await self._end(connection, channel, datas)

    async def _roll_back(self, channel: str, datas: Sequence[str]) -> None:
        async with self._transaction() as connection:
            for data in datas:
                await _say(connection, channel, data)
            await connection.execute("ROLLBACK")

    async def _insist(self, channel: str, datas: Sequence[str]) -> None:
        """Publish with keys, again and again until it is known to be committed."""
        keys = [str(uuid.uuid4()) for _ in datas]
        while True:
            try:
                async with self._transaction() as connection:
                    for data, key in zip(datas, keys, strict=True):
                        await _say(connection, channel, data, key)
                    await self._end(connection, channel, datas)
            except self._unanswered as error:
                self._note("insist", channel, error)
                await asyncio.sleep(PAUSE)
            else:
                return

    async def _prepare(self, channel: str, datas: Sequence[str], *, commit: bool) -> None:
        """Publish in a transaction that is prepared, and that another session commits or rolls back."""
        name, life = f"abide {uuid.uuid4()}", self._ledger.life
        async with self._transaction() as connection:
            for data in datas:
                await _say(connection, channel, data)
            try:
                await connection.execute(f"PREPARE TRANSACTION '{name}'")
            except self._unanswered as error:
                self._note("prepare", channel, error)
                commit = False
        if commit:
            self._doubt(channel, datas)
            await self._decide(f"COMMIT PREPARED '{name}'")
            self._committed(channel, datas, life)
        else:
            await self._decide(f"ROLLBACK PREPARED '{name}'")

    async def _decide(self, command: str) -> None:
        """End a prepared transaction. One that is not there has been ended by an attempt without an answer."""
        while True:
            try:
                connection = await self._connect()
                try:
                    await connection.execute(command)
                finally:
                    connection.terminate()
            except asyncpg.UndefinedObjectError:
                return
            except self._unanswered as error:
                self._timeline.note(f"{command} again: {type(error).__name__} {error}")
                await asyncio.sleep(PAUSE)
            else:
                return

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Begin a transaction on a connection of its own; what is not committed is rolled back."""
        connection = await self._connect()
        try:
            await connection.execute("BEGIN")
            yield connection
        finally:
            connection.terminate()

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self._url, timeout=SECONDS, command_timeout=SECONDS)

    async def _end(self, connection: asyncpg.Connection, channel: str, datas: Sequence[str]) -> None:
        life = self._doubt(channel, datas)
        await connection.execute("COMMIT")
        self._committed(channel, datas, life)

    def _doubt(self, channel: str, datas: Sequence[str]) -> int:
        """Note what may be committed, and return which life of the log it is now."""
        for data in datas:
            self._ledger.doubt(channel, data)
        return self._ledger.life

    def _committed(self, channel: str, datas: Sequence[str], life: int) -> None:
        for data in datas:
            self._ledger.commit(channel, data, life)

    def _note(self, way: str, channel: str, error: BaseException) -> None:
        self._timeline.note(f"{way} in SQL to {channel}: {type(error).__name__} {error}")


async def _say(connection: asyncpg.Connection, channel: str, data: str, key: str | None = None) -> None:
    """Publish a JSON string, as one of the types that are taken: always the same for the same data."""
    form = _FORMS[sum(data.encode()) % len(_FORMS)]
    await connection.execute(f"SELECT abide.publish($1, {form}, $3)", channel, data, key)
