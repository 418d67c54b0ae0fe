"""What all connections of one server that were handed over have in common, so that none of them has to hold it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.server import ServerState

from app.core.ports import INTAKE, METER, UNBOUNDED, UNMETERED, Intake, Meter
from app.server.lasting.backlog import Backlog
from app.server.lasting.keepalive import Keepalive

_SWEEPS = 2
"""How often the sweep comes in the shortest of its limits."""

_MESSAGE_SECONDS = 60.0
"""In which a message has to come as a whole, beside the time for its size."""

_SLOWEST = 16 * 1024
"""Bytes a second: who sends as fast as this has all the time for a message's size."""

_YOUNGEST = 0.8
"""The part of the greatest age at which the first connections end."""


class Shared:
    """The settings, the sweep, and its limits in ticks; times are in seconds."""

    _of_servers: ClassVar[WeakKeyDictionary[ServerState, Shared]] = WeakKeyDictionary()

    def __init__(
        self,
        config: Config,
        connections: set[Any],
        app_state: Mapping[str, Any],
        *,
        handshake_timeout: float,
        closing_timeout: float,
    ) -> None:
        interval, timeout = config.ws_ping_interval or None, config.ws_ping_timeout or None
        limits = (interval, timeout, handshake_timeout, closing_timeout)
        period = min(limit for limit in limits if limit is not None) / _SWEEPS
        self._app_state = app_state
        self.loop = asyncio.get_running_loop()
        self.connections = connections
        self.max_size = config.ws_max_size
        self.silence = interval + timeout if interval and timeout else None
        """Seconds after which a peer that is not heard of is given up; None for never."""
        self.is_over = False
        """Whether the drain has told everybody: what begins now is told at once."""
        self.backlog = Backlog(self.loop)
        """What the connections have read and wait to handle; requests, too."""
        self.keepalive = Keepalive(self.loop, connections, period)
        self.handshake_late = self.keepalive.at_least(handshake_timeout)
        self.closing_late = self.keepalive.at_least(closing_timeout)
        self.message_late = self.keepalive.at_least(_MESSAGE_SECONDS)
        self.ping_at = self.keepalive.at_most(interval)
        self.drop_at = self.ping_at + self.keepalive.at_least(timeout) - 1
        self.limit_age(None)

    @property
    def meter(self) -> Meter:
        """The application's, from its start on."""
        meter: Meter = self._app_state.get(METER, UNMETERED)
        return meter

    @property
    def intake(self) -> Intake:
        """The application's bound over unfinished messages, from its start on."""
        intake: Intake = self._app_state.get(INTAKE, UNBOUNDED)
        return intake

    def limit_age(self, seconds: float | None) -> None:
        """Let connections end at an age that is random for each, from 80 to 100 percent of so many seconds."""
        self.oldest = self.keepalive.at_most(seconds)
        self.old = self.oldest if seconds is None else min(self.oldest, self.keepalive.at_least(seconds * _YOUNGEST))

    def is_late(self, age: int, size: int) -> bool:
        """Whether a message that began so many ticks ago, and has so many bytes by now, takes too long."""
        return age >= self.message_late + self.keepalive.at_most(size / _SLOWEST)

    def is_due(self, age: int) -> bool:
        """Whether a connection so many ticks old is to end at this one; asked at each tick.

        Drawn anew at each tick, so that no connection has to hold when it will be: with n ticks
        left, one in n ends, which makes all of them equally likely.
        """
        return age >= self.old and random.random() * (self.oldest - age + 1) < 1  # noqa: S311 — it spreads load

    @classmethod
    def of(
        cls,
        config: Config,
        server_state: ServerState,
        app_state: Mapping[str, Any],
        *,
        handshake_timeout: float,
        closing_timeout: float,
    ) -> Shared:
        """Return what the server's connections share; made with the first of them."""
        shared = cls._of_servers.get(server_state)
        if shared is None:
            shared = cls._of_servers[server_state] = cls(
                config,
                server_state.connections,
                app_state,
                handshake_timeout=handshake_timeout,
                closing_timeout=closing_timeout,
            )
        return shared
