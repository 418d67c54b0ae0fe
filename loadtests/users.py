"""The users that put load on a server: publishers, subscribers, and subscribers that all reconnect at the same moment.

locust replaces the blocking calls of the standard library with gevent's: ``time.sleep`` and sockets block one user.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
import time
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlencode

import websocket
from locust import FastHttpUser, User, constant_throughput, task
from locust.exception import StopUser

from loadtests.options import options_of
from loadtests.reconciliation import Ledger

SILENCE = 45.0  # seconds: the server pings every 20, so a connection that is silent for longer is dead
PAUSE = 1.0  # the most seconds before a subscriber tries again
RESTARTING = 1012  # the server asks its clients to reconnect: not a failure
REQUEST_SECONDS = 10.0


class ClosedError(Exception):
    """The server closed the connection."""


def _authorization(variable: str) -> dict[str, str]:
    """Return the header for a key or token in the environment of this process."""
    secret = os.environ.get(variable)
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def _brief(error: Exception) -> Exception:
    """Leave out the headers of a refusal: locust groups failures by their text."""
    if isinstance(error, websocket.WebSocketBadStatusException):
        return ClosedError(f"status {error.status_code}")
    return error


class PublisherUser(FastHttpUser):
    """Publishes by POST, at a steady rate, to every channel in turn; the time of publishing is in the message."""

    fixed_count = 1
    insecure = False  # send a key only to the server that the certificate names
    network_timeout = connection_timeout = REQUEST_SECONDS
    ledger: ClassVar[Ledger]

    def on_start(self) -> None:
        """Prepare what all its messages share."""
        options = options_of(self.environment)
        self._channels = itertools.cycle(options.channels.split(","))
        self._padding = "x" * max(0, options.message_bytes - len('{"at": 1700000000.000000, "pad": ""}'))
        self._headers = _authorization("LOCUST_PUBLISH_KEY")

    def wait_time(self) -> float:
        """Keep the rate, however long a push takes."""
        return float(constant_throughput(options_of(self.environment).publish_rate)(self))

    @task
    def publish(self) -> None:
        """Push one message and note its position."""
        if self.ledger.closing:
            raise StopUser
        channel = next(self._channels)
        self.ledger.in_flight += 1
        try:
            self._push(channel, {"at": time.time(), "pad": self._padding})
        finally:
            self.ledger.in_flight -= 1

    def _push(self, channel: str, message: dict[str, Any]) -> None:
        with self.client.post(
            f"/push/{channel}", json=message, headers=self._headers, name="push", catch_response=True
        ) as answer:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                body = answer.json()
                self.ledger.stored(channel, body["epoch"], body["offset"])
                return
            answer.failure(f"{answer.status_code}: {answer.text}" if answer.status_code else answer.error)


class SubscriberUser(User):
    """Follows one channel on ``abide.v1`` for as long as it lives; after a lost connection it resumes by position."""

    weight = 9
    ledger: ClassVar[Ledger]
    _turns: ClassVar[Iterator[int]] = itertools.count()

    def on_start(self) -> None:
        """Take the next channel."""
        channels = options_of(self.environment).channels.split(",")
        self._channel = channels[next(self._turns) % len(channels)]
        self._account = self.ledger.open(self._channel)
        self._socket: websocket.WebSocket | None = None
        self._since = 0.0

    def on_stop(self) -> None:
        """Leave. Messages published from now on are not expected."""
        self._account.present = False
        self._drop()

    @task
    def follow(self) -> None:
        """Connect and receive until the connection ends or the user leaves."""
        try:
            socket = self._connect()
            while (left := self._stays() - time.time()) > 0:
                socket.settimeout(min(left, SILENCE))
                self._receive(socket, is_leaving=left < SILENCE)
        except (websocket.WebSocketException, OSError, ClosedError) as error:
            self._report("WS", "connection", error=_brief(error))
            time.sleep(random.uniform(0, PAUSE))  # noqa: S311 — it spreads load, and guards nothing
        finally:
            self._drop()

    def _stays(self) -> float:
        """Return the time when the user drops the connection itself."""
        return math.inf

    def _connect(self) -> websocket.WebSocket:
        account, began = self._account, time.perf_counter()
        name = "resume" if account.position else "subscribe"
        query = f"?{urlencode({'since': account.position})}" if account.position else ""
        socket = self._socket = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
        socket.settimeout(REQUEST_SECONDS)
        socket.connect(
            f"{self.host}/{self._channel}{query}".replace("http", "ws", 1),
            subprotocols=["abide.v1"],
            header=_authorization("LOCUST_SUBSCRIBE_TOKEN"),
        )
        account.take(self._frame(socket)[0])
        self._since = time.time()
        self._report("WS", name, (time.perf_counter() - began) * 1000)
        return socket

    def _receive(self, socket: websocket.WebSocket, *, is_leaving: bool) -> None:
        try:
            frame, length = self._frame(socket)
        except websocket.WebSocketTimeoutException:
            if is_leaving:
                return
            raise
        received = time.time()
        self._account.take(frame)
        if frame["type"] == "message":
            self._time(frame["data"], received, length)

    def _time(self, data: object, received: float, length: int) -> None:
        """Report how long a message took, unless it is older than the connection."""
        at = data.get("at") if isinstance(data, dict) else None
        if isinstance(at, float) and at >= self._since:
            self._report("WSR", "fan-out", (received - at) * 1000, length=length)

    def _frame(self, socket: websocket.WebSocket) -> tuple[dict[str, Any], int]:
        opcode, content = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            code, reason = int.from_bytes(content[:2], "big"), content[2:].decode(errors="replace")
            raise (_RestartError if code == RESTARTING else ClosedError)(f"{code} {reason}".rstrip())
        return json.loads(content), len(content)

    def _report(
        self, kind: str, name: str, milliseconds: float = 0, *, length: int = 0, error: Exception | None = None
    ) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=milliseconds,
            response_length=length,
            exception=None if isinstance(error, _RestartError) else error,
            context={},
        )

    def _drop(self) -> None:
        """Drop the connection as a network does, without a closing handshake."""
        if self._socket is not None:
            self._socket.shutdown()
            self._socket = None


class ReconnectStormUser(SubscriberUser):
    """Drops its connection at the same moments as all others of its kind in all processes, and resumes at once."""

    weight = 1

    def _stays(self) -> float:
        every: float = options_of(self.environment).storm_seconds
        return math.inf if self.ledger.closing else math.ceil(self._since / every) * every


class _RestartError(ClosedError):
    """The server closed the connection and asks the client to reconnect."""
