"""Keeps the file open, hears other workers, and looks whether anything was missed or the file is another one.

Every commit has a number. A worker that heard all numbers up to those that its last look found has missed nothing, and
need not compare heads. So a look costs a worker at rest one row.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import structlog

from app.bus import bodies, heads
from app.bus.follower import Follower
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.sqlite.commit import Commit, Segment
from app.bus.sqlite.file.file_faults import FileError, explain
from app.bus.sqlite.heard import Heard
from app.bus.sqlite.log_file import LogFile
from app.bus.sqlite.log_reads import LogReads
from app.bus.sqlite.wakeups import Wakeups
from app.core.errors import UnavailableError
from app.core.ports import Meter

_LOOK_SECONDS = 1.5
_SOONEST_SECONDS = 0.02
"""The least time between two looks that were asked for."""

_HOLE_SECONDS = 0.03
"""How long a commit may be unheard while later ones are heard; then the log is asked."""

_MOST_UNHEARD = 3
"""So many words of its own in a row that a worker does not hear show that its socket is of no use."""

_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.02, 1.0

_log = structlog.get_logger(__name__)


class Watch:
    """Watches ``file``; ``probe`` finds out whether a commit would be stored."""

    def __init__(  # noqa: PLR0913, PLR0917 — whom it hears for, and whom it tells
        self,
        file: LogFile,
        follower: Follower,
        reads: LogReads,
        outcomes: Outcomes,
        meter: Meter,
        probe: Callable[[], Awaitable[None]],
    ) -> None:
        self._file = file
        self._follower = follower
        self._reads = reads
        self._outcomes = outcomes
        self._meter = meter
        self._probe = probe
        self._wakeups: Wakeups | None = None
        self._heard = Heard()
        self._looked = 0
        """How many commits the last look found."""
        self._unheard = 0
        """How many words that this worker has sent itself were not heard."""
        self._is_compared = False
        """Whether heads were compared since the file was opened."""
        self._waiting: asyncio.TimerHandle | None = None
        """Waits for a commit that was not heard of, while later ones were."""
        self._asked = asyncio.Event()
        """Set to have a look soon."""
        self._said = ""
        """Why the file was lost, since it was open."""
        self.ready = asyncio.Event()
        """Set from the first time on that the file is open."""

    async def run(self) -> None:
        """Keep the file open; never returns."""
        backoff = _SHORTEST_BACKOFF
        while True:
            try:
                async with self._open():
                    backoff = _SHORTEST_BACKOFF
                    await self._look_on()
            except Exception as error:  # noqa: BLE001 — whatever it was, the file is opened again
                self._lost(error)
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 — jitter, not a secret
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    def tell(self, commit: Commit) -> None:
        """Tell the other workers of a commit. Called in the thread that writes."""
        with contextlib.suppress(OSError):  # it is only a hint
            if (wakeups := self._wakeups) is not None:
                wakeups.tell(commit.number, commit.segments)

    def hear(self, commit: Commit) -> None:
        """Hear what this worker has stored."""
        for segment in commit.segments:
            self.heard_messages(segment)
        self.heard_commit(commit.number)

    def heard_commit(self, number: int) -> None:
        """Learn that a whole commit was heard."""
        self._file.saw(number)
        self._heard.note(number)
        self._keep_order()
        if self._heard.has_hole and self._waiting is None:
            self._waiting = asyncio.get_running_loop().call_later(_HOLE_SECONDS, self._look_for_hole)

    def heard_messages(self, segment: Segment) -> None:
        """Hear messages."""
        if segment.epoch != self._follower.epoch:
            self._asked.set()
        if segment.channel in self._follower:
            messages = bodies.messages(segment.last, segment.time, segment.body)
            self._follower.hear(segment.channel, segment.epoch, messages)

    def heard_head(self, channel: str, head: int) -> None:
        """Hear that a head has moved."""
        self._follower.look(channel, head)

    def asked(self) -> None:
        """Look at the heads soon: another worker could not tell this one of a commit."""
        self._asked.set()

    def beat(self, seconds: float) -> None:
        """Hear the word that this worker has sent itself."""
        self._unheard = 0
        self._meter.heard(seconds)

    def _keep_order(self) -> None:
        """Hand out nothing while an earlier commit is not heard of: it may have taken back what this one needs."""
        if self._heard.has_hole or not self._is_compared:
            self._follower.hold()
        else:
            self._follower.release()

    def _look_for_hole(self) -> None:
        self._waiting = None
        if self._heard.has_hole:
            self._asked.set()

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        try:
            await self._file.open()
            self._wakeups = Wakeups(self._file.folder, self)
            self._unheard = 0
            self._is_compared = False
            self._keep_order()
            await self._compare()
            self._outcomes.worked("listen")
            _log.info("file_opened", file=str(self._file.path))
            self._said = ""
            self.ready.set()
            yield
        finally:
            wakeups, self._wakeups = self._wakeups, None
            try:
                await self._file.close()
            finally:
                if wakeups is not None:  # the thread that writes has let go of it
                    wakeups.close()

    def _lost(self, error: Exception) -> None:
        reason = explain(error, self._file.path)
        if reason != self._said and self.ready.is_set():
            _log.warning("file_lost", reason=reason)
        elif reason != self._said:
            _log.warning("file_not_open", reason=reason)
        self._said = self._file.reason = reason
        self._outcomes.failed("listen", reason)

    async def _look_on(self) -> None:
        """Look again and again; raise when the file has to be opened again."""
        probing = asyncio.create_task(self._probe_on(), name="sqlite-probe")
        try:
            await self._look_until_lost()
        finally:
            probing.cancel()

    async def _probe_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._probe()

    async def _look_until_lost(self) -> None:
        while True:
            lost, asked = (asyncio.ensure_future(event.wait()) for event in (self._file.lost, self._asked))
            try:
                await asyncio.wait((lost, asked), timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
                asked.cancel()
            is_asked = self._asked.is_set()
            self._asked.clear()
            await self._file.check()
            if not is_asked:
                self._beat()
            await self._look(is_asked=is_asked)
            await asyncio.sleep(_SOONEST_SECONDS)

    def _beat(self) -> None:
        if self._unheard >= _MOST_UNHEARD:
            msg = "the socket by which other workers wake this one hears nothing"
            raise FileError(msg)
        if self._wakeups is not None:
            self._unheard += self._wakeups.beat()

    async def _look(self, *, is_asked: bool) -> None:
        try:
            present, _ = await self._reads.places(())
            if is_asked or self._heard.upto < self._looked:
                await self._compare()
            else:
                self._follower.seen = time.monotonic()
                self._looked = present.commits
        except UnavailableError as error:
            self._outcomes.failed("poll", explain(error.__cause__ or error, self._file.path))
        else:
            self._outcomes.worked("poll")

    async def _compare(self) -> None:
        async def read(channels: Sequence[str]) -> Mapping[str, Place]:
            present, places = await self._reads.places(channels)
            self._follower.epoch, self._looked = present.name, present.commits
            return places

        await heads.compare(self._follower, read)
        self._is_compared = True
        self._heard.skip(self._looked)
        self._keep_order()
