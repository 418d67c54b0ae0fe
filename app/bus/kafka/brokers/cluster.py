"""Connections to the brokers of a cluster: one for each broker and purpose, made when it is needed.

A broker answers the requests of one connection in turn. So what waits for messages has connections of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
import time
from typing import Any, Literal

from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError, KafkaError
from aiokafka.protocol.api import Request

from app.bus.kafka.brokers.bootstrap import Address
from app.bus.kafka.brokers.broker_errors import at
from app.bus.kafka.brokers.wire import TopicsRequest
from app.core.errors import UnavailableError

Purpose = Literal["commit", "listen", "read"]

ANSWER_SECONDS = 5.0
"""How long a broker may take to answer, besides what it was asked to wait."""

_IN_FLIGHT = 2
"""How many requests are sent over a connection before the first is answered. The others wait here, where no time
counts: a broker answers one after the other, and many that are sent at once would wait there for too long."""

CONNECT_SECONDS = 3.0

_NO_BROKERS = "the cluster names no brokers"

TOO_OLD = "the broker knows no topics by their ids: use Apache Kafka 2.8 or newer"

_SLOW_SECONDS = 0.5
"""An answer that takes longer, beyond what the broker was asked to wait, is trouble."""

_STUCK_SECONDS = 1.0
"""A connection that has not answered for so long is closed by whoever waits no more."""

_METADATA, _FIRST_WITH_IDS = 3, 11

LOST = (KafkaError, OSError, EOFError, TimeoutError, AssertionError)
"""What is raised where a connection fails; aiokafka asserts that a server answers as a broker does."""

logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)  # what it knows is in the errors, which we log once


class Cluster:
    """The brokers. Methods raise what :data:`LOST` has, and :class:`UnavailableError` for a broker of no use."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._brokers: dict[int, tuple[str, int]] = {}
        self._connections: dict[tuple[int, Purpose], AIOKafkaConnection] = {}
        self._controller = -1
        self._first: AIOKafkaConnection | None = None
        """The connection that asks for topics: to whichever broker lets us in."""
        self._turns: dict[tuple[int, Purpose], asyncio.Semaphore] = {}
        self._opening: dict[tuple[int, Purpose] | None, asyncio.Lock] = {}
        self.troubled = float("-inf")
        """When a broker was last slow or away (:func:`time.monotonic`): what was sent before may still arrive there."""
        self.opened = 0
        """How many connections were made. After a new one the topics may be others, as after a restart."""

    async def topics(self, names: list[str]) -> Any:  # noqa: ANN401 — aiokafka's structs have no types
        """Ask for topics by their names; learn the brokers from the answer."""
        async with self._opening.setdefault(None, asyncio.Lock()):
            connection, is_new = self._first, False
            if connection is None or not connection.connected():
                connection, is_new = await self._open_first(), True
            self._first = connection
        answer = await self.send(connection, TopicsRequest(names), ANSWER_SECONDS, connecting=is_new)
        self._brokers = {broker[0]: (broker[1], broker[2]) for broker in answer.brokers}
        self._controller = answer.controller_id
        return answer

    async def ask(self, node: int, purpose: Purpose, request: Request[Any], *, seconds: float = ANSWER_SECONDS) -> Any:  # noqa: ANN401 — as above
        """Send a broker a request in its turn and return its answer, for which it has ``seconds``."""
        async with self._turns.setdefault((node, purpose), asyncio.Semaphore(_IN_FLIGHT)):
            return await self.send(await self.connection(node, purpose), request, seconds)

    async def controller(self) -> int:
        """Return a broker that can be asked to create topics: without KRaft only the controller can."""
        broker = await self.any_broker()
        return self._controller if self._controller in self._brokers else broker

    async def any_broker(self) -> int:
        """Return a broker that can be asked what each of them knows."""
        if not self._brokers:
            await self.topics([])
        if not self._brokers:
            raise KafkaConnectionError(_NO_BROKERS)
        return random.choice(list(self._brokers))  # noqa: S311 — any will do

    async def connection(self, node: int, purpose: Purpose) -> AIOKafkaConnection:
        """Return the connection to a broker for a purpose; make it if there is none."""
        key = node, purpose
        async with self._opening.setdefault(key, asyncio.Lock()):
            known: AIOKafkaConnection | None = self._connections.get(key)
            if known is None or not known.connected():
                if node not in self._brokers:
                    await self.topics([])
                if node not in self._brokers:
                    msg = f"broker {node} is not in the cluster"
                    raise KafkaConnectionError(msg)
                known = self._connections[key] = await self._open(*self._brokers[node])
            return known

    async def send(
        self, connection: AIOKafkaConnection, request: Request[Any], seconds: float, *, connecting: bool = False
    ) -> Any:  # noqa: ANN401 — as above
        """Send a request over one connection and return its answer; the connection is closed if there is none."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                answer = await connection.send(request)
        except (*LOST, RuntimeError) as error:  # uvloop raises RuntimeError over a connection that it has closed
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            self.troubled = time.monotonic()
            raise at(connection.host, connection.port, error, connecting=connecting) from error
        except asyncio.CancelledError:
            if time.monotonic() - began > _STUCK_SECONDS:
                connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise
        finally:
            if time.monotonic() - began > max(0, seconds - ANSWER_SECONDS) + _SLOW_SECONDS:
                self.troubled = time.monotonic()
        return answer

    async def close(self) -> None:
        """Close every connection. Never raises."""
        connections = [*self._connections.values(), *([self._first] if self._first else [])]
        self._connections, self._first = {}, None
        for connection in connections:
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(1):
                    await (connection.close(reason=CloseReason.SHUTDOWN) or asyncio.sleep(0))

    async def _open_first(self) -> AIOKafkaConnection:
        servers = random.sample(self._address.servers, len(self._address.servers))
        for server in servers[:-1]:
            with contextlib.suppress(*LOST):
                return await self._open(*server)
        return await self._open(*servers[-1])

    async def _open(self, host: str, port: int) -> AIOKafkaConnection:
        options = self._address.options()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection: AIOKafkaConnection = await create_conn(
                    host, port, client_id="abide", request_timeout_ms=int(ANSWER_SECONDS * 4000), **options
                )
        except (*LOST, RuntimeError) as error:
            raise at(host, port, error, connecting=True) from error
        except (LookupError, ValueError, struct.error):  # aiokafka reads any answer as a good one
            kind = AssertionError if self._address.user is None else AuthenticationFailedError
            raise at(host, port, kind()) from None  # its frames hold the password
        least = connection._versions.get(_METADATA, (0, 0))  # noqa: SLF001 — by no public name
        if least[1] < _FIRST_WITH_IDS:
            connection.close()
            raise UnavailableError(TOO_OLD)
        self.opened += 1
        return connection
