"""The data that all links of one server share, so that each link stays small."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from app.core.ports import INTAKE, LIMITS, METER, UNBOUNDED, UNMETERED, InForce, Intake, Meter, unlimited
from app.core.ports import Limits as LimitsInForce
from app.server.lasting.backlog import Backlog
from app.server.lasting.limits import Limits, Timeouts
from app.server.lasting.sweep import Sweep
from app.server.open_files import most_connections

_SWEEPS = 2
"""Sweeps in the shortest of the timeouts."""


class LinkContext:
    """The loop with its backlog, the sweep, the limits, and what the application gives: meter and intake."""

    def __init__(self, connections: set[Any], app_state: Mapping[str, Any], timeouts: Timeouts, max_size: int) -> None:
        """Make it in the server's event loop.

        ``connections`` is the server's set, which the sweep looks at; ``max_size`` is a message's, in bytes.
        """
        self.loop = asyncio.get_running_loop()
        self.connections = connections
        self.app_state = app_state
        """The lifespan's ``state``: complete when the application has started."""
        self.max_size = max_size
        self.silence = timeouts.silence
        """Seconds after which a silent peer is given up; None for never."""
        self.buffers_are_bound = False
        """Whether connections inherit the bounds of their buffers from their listener."""
        self.sockets = 0
        """How many connections are open, links and others."""
        self.most_sockets = most_connections()
        """How many of them leave the process files for the rest."""
        self.is_over = False
        """Whether the drain has told every connection to go: one that begins now is told at once."""
        self.backlog = Backlog(self.loop)
        """What connections have read and not handled yet; requests, too."""
        self.sweep = Sweep(self.loop, connections, timeouts.shortest / _SWEEPS)
        self.limits = Limits(timeouts, self.sweep)

    @property
    def meter(self) -> Meter:
        """The application's, from its start on."""
        meter: Meter = self.app_state.get(METER, UNMETERED)
        return meter

    @property
    def configured(self) -> LimitsInForce:
        """The application's limits, from its start on."""
        in_force: InForce = self.app_state.get(LIMITS, unlimited)
        return in_force()

    @property
    def intake(self) -> Intake:
        """The application's bound over unfinished messages, from its start on."""
        intake: Intake = self.app_state.get(INTAKE, UNBOUNDED)
        return intake
