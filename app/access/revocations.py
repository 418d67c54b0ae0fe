"""What was taken back, as one worker knows it: read from the log when it starts, and followed from then on.

Sets only grow by what is read, so it does not matter in which order entries come, or how often. That makes every
recovery the same: read all of ``$access`` anew and keep what is known. A disconnection is an event, not a fact. So it
is acted on when it comes, and never when old entries are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from app.access import entries
from app.access.entries import Disconnection, Revocation
from app.access.revoked import MAX_ENTRIES, SLACK_SECONDS, Revoked
from app.core.channel import ACCESS, HistoryWindow
from app.core.errors import AbideError
from app.core.message import Batch, EpochChange, Message, Position
from app.core.ports import Source

_PAGE_MESSAGES = 5000
_RETRY_SECONDS = 1.0
_SWEEP_SECONDS = 60.0

_NOTHING = float("inf")

_log = structlog.get_logger(__name__)


def window(lifetime: float) -> HistoryWindow:
    """Return what the log has to keep of ``$access``, where no token lives for longer than ``lifetime`` seconds."""
    return HistoryWindow(size=MAX_ENTRIES, ttl=int(lifetime) + SLACK_SECONDS)


class Revocations:
    """Implements :class:`~app.core.ports.Sink` for ``$access``.

    ``lifetime`` returns the longest lifetime of a token, in seconds. Called when something is taken back:
    ``on_revoked`` with the tokens, ``on_disconnect`` with a subject and a channel, or None for all channels. Both are
    to find out by :meth:`is_revoked` and by subject what to close, and must not block.
    """

    def __init__(
        self,
        lifetime: Callable[[], float],
        *,
        on_revoked: Callable[[Revocation], None] = lambda _: None,
        on_disconnect: Callable[[str, str | None], None] = lambda _, __: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lifetime = lifetime
        self._on_revoked = on_revoked
        self._on_disconnect = on_disconnect
        self._clock = clock
        self._revoked = Revoked(lifetime, clock=clock)
        self.is_loaded = False
        """Whether everything that was taken back is known. Until then no token may be admitted."""
        self.ignored = 0
        """How many messages of ``$access`` could not be read as entries."""
        self._is_followed = False
        self._is_stale = asyncio.Event()
        """Set to have the log read anew."""
        self._seen = 0
        """Offset of the last message that was taken from the live ones."""
        self._missed = _NOTHING
        """Offset after which messages may have been lost on their way here."""
        self._wrong: str | None = None

    def __repr__(self) -> str:
        return f"<Revocations {len(self._revoked)} known, {'loaded' if self.is_loaded else 'not loaded'}>"

    def __len__(self) -> int:
        return len(self._revoked)

    @property
    def problem(self) -> str | None:
        """What is wrong, for readiness; None when all is known."""
        if self.is_loaded:
            return None
        why = self._wrong or "it is being read"
        return f"tokens are refused until it is known which were taken back: {why}"

    def is_revoked(self, sub: str | None, jti: str | None, issued: float | None) -> bool:
        """Whether a token was taken back; valid once :attr:`is_loaded`.

        ``issued`` is the token's ``iat``, in seconds; a token without it counts as issued before.
        """
        return self._revoked.has(sub, jti, issued)

    def take(self, entry: Revocation | Disconnection, since: float) -> None:
        """Act on an entry that was stored at a time. Never raises."""
        try:
            if isinstance(entry, Disconnection):
                self._on_disconnect(entry.sub, entry.channel)
            elif self._revoked.add(entry, since):
                self._on_revoked(entry)
        except Exception:  # noqa: BLE001 — a bug must not keep the next entries from being known
            _log.exception("taking_back_failed")

    async def load(self, source: Source) -> None:
        """Follow ``$access``, and read all of it up to there. Raises what the source raises; call again then."""
        if not self._is_followed:
            await source.follow(ACCESS, self)
            self._is_followed = True
        self._is_stale.clear()
        await self._read(source)
        if not self._is_stale.is_set():
            self._missed, self.is_loaded = _NOTHING, True

    async def run(self, source: Source) -> None:
        """Load until that works, read anew when something was missed, and forget what has expired; never returns."""
        while True:
            try:
                if not self.is_loaded or self._is_stale.is_set():
                    await self.load(source)
            except AbideError as error:
                await self._try_again(str(error))
                continue
            except Exception:  # noqa: BLE001 — whatever it is, tokens are refused until the log was read
                _log.exception("revocations_unreadable")
                await self._try_again("the server failed; its log says why")
                continue
            while self._revoked.forget_expired():  # noqa: ASYNC110 — it pauses between parts of the work
                await asyncio.sleep(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._is_stale.wait()

    async def _try_again(self, reason: str) -> None:
        if reason != self._wrong:
            _log.warning("revocations_unreadable", reason=reason)
        self._wrong = reason
        self._is_stale.set()
        await asyncio.sleep(_RETRY_SECONDS)

    def start(self, position: Position) -> None:
        """Learn where the live messages begin."""
        self._seen = position.offset

    def deliver(self, batch: Batch) -> None:
        """Act on the next entries."""
        for message in batch.messages:
            self._seen = message.offset
            self._take_message(message, is_news=True)

    def change_epoch(self, change: EpochChange) -> None:
        """Keep what is known, and read the log anew: another one may hold more."""
        self._seen = change.offset
        self._is_stale.set()

    def lose(self) -> None:
        """Do as after a failure: messages were lost."""
        self.failed()

    def failed(self) -> None:
        """Admit no token until the log was read anew: a batch was lost."""
        self.is_loaded, self._missed = False, min(self._missed, self._seen)
        self._is_stale.set()

    async def _read(self, source: Source) -> None:
        after = 0
        while True:
            page = await source.read(ACCESS, after, _PAGE_MESSAGES, window(self._lifetime()))
            for message in page.messages:
                self._take_message(message, is_news=message.offset > self._missed)
            if not page.messages or page.messages[-1].offset >= page.head:
                return
            after = page.messages[-1].offset
            await asyncio.sleep(0)

    def _take_message(self, message: Message, *, is_news: bool) -> None:
        try:
            entry = entries.read(message.data)
        except ValueError as error:
            self.ignored += 1
            _log.warning("access_entry_ignored", offset=message.offset, reason=str(error), ignored=self.ignored)
            return
        if is_news or isinstance(entry, Revocation):
            self.take(entry, message.time / 1000)
