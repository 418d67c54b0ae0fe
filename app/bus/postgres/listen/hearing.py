"""What one session hears, and how much of it is believed.

Every role of the database can notify, any number of times and with any text. So messages are taken from a notification
only where a commit of ours has sealed them, a heartbeat only where it bears a token of ours, and everything else is a
hint where to look. All of it gets a bounded part of each turn of the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.bus.follower import Follower
from app.bus.postgres.listen import notifications
from app.bus.postgres.listen.heartbeats import Heartbeats
from app.bus.postgres.listen.notifications import Seal
from app.bus.postgres.listen.outbox_mover import OutboxMover

_HINT_SECONDS, _MESSAGE_SECONDS = 0.004, 0.04
"""How much of one turn of the event loop hints and messages may take; messages have to be proved. What comes later in
the turn is dropped, and the next look at the heads finds what it told."""


@dataclass(slots=True)
class Hearing:
    """Takes in the notifications of one session."""

    follower: Follower
    mover: OutboxMover
    heartbeats: Heartbeats
    seal: Seal | None
    """What proves messages; without it they are hints."""
    look: Callable[[], None]
    """Called when a message is of another epoch than the log's newest."""
    alive: Callable[[], None]
    """Called when a heartbeat of ours is heard."""
    _since: float = 0.0
    """When the first notification was heard in this turn of the event loop; 0 before."""

    def hear(self, payload: object) -> None:
        """Take in one notification."""
        text = str(payload)
        spent = self._spent()
        match text[:1]:
            case "h":
                if self.heartbeats.heard(text[2:]):
                    self.alive()
            case "e" if spent < _MESSAGE_SECONDS:
                self._hear_messages(text, is_hint_due=spent < _HINT_SECONDS)
            case "d" if spent < _HINT_SECONDS:
                for channel, head in notifications.doorbell(text):
                    self.follower.look(channel, head)
            case "b" if spent < _HINT_SECONDS:
                self.mover.ring()
            case "e" | "d" | "b":
                self.heartbeats.dropped()

    def _hear_messages(self, text: str, *, is_hint_due: bool) -> None:
        heard = notifications.inline(text)
        if heard is None or heard.channel not in self.follower:
            return
        if self.seal is not None and self.seal.proves(heard):
            self.follower.hear(heard.channel, heard.epoch, heard.messages())
            if heard.epoch != self.follower.epoch:
                self.look()
        elif is_hint_due:
            self.follower.look(heard.channel, heard.last)
        else:
            self.heartbeats.dropped()

    def _spent(self) -> float:
        """Return for how many seconds of this turn of the event loop notifications have been heard."""
        now = time.perf_counter()
        if not self._since:
            self._since = now
            asyncio.get_running_loop().call_soon(self._end_turn)
        return now - self._since

    def _end_turn(self) -> None:
        self._since = 0.0
