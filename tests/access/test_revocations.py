"""What was taken back, as workers hear of it: in memory and on PostgreSQL."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from structlog.testing import capture_logs

from app.access import entries
from app.access.entries import Disconnection, Revocation
from app.access.revocations import Revocations
from app.access.storing import store
from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import ACCESS, HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import EpochChange, Page, Position, Record
from app.core.ports import Sink
from tests.access.conftest import LIFETIME, Pair, keep
from tests.support.readers import until

NOW = time.time()

REFUSED = "tokens are refused until it is known which were taken back"


class Heard:
    """The revocations of one worker, and what it was told to close."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.revocations = Revocations(
            lambda: LIFETIME,
            on_revoked=self.told.append,
            on_disconnect=lambda sub, channel: self.told.append((sub, channel)),
        )

    def refuses(self, sub: str) -> bool:
        return self.revocations.is_revoked(sub, None, NOW - 1)


@contextlib.asynccontextmanager
async def listening(bus: Bus) -> AsyncIterator[Heard]:
    """Yield what a worker hears that has loaded all there is."""
    heard = Heard()
    running = asyncio.create_task(heard.revocations.run(bus))
    try:
        await until(lambda: heard.revocations.is_loaded, "revocations are loaded")
        yield heard
    finally:
        running.cancel()
        await asyncio.wait([running])
        await bus.unfollow(ACCESS)


async def publish(bus: Bus, *what: Revocation | Disconnection) -> None:
    for entry in what:
        await store(bus, entries.record(entry))


async def test_every_worker_refuses_what_one_has_taken_back(pair: Pair) -> None:
    """Revocation that one worker stores is known to another, which is told of it once."""
    async with listening(pair.other) as heard:
        assert not heard.refuses("42")
        await publish(pair.one, Revocation("42", NOW), Revocation(jti="9f"))
        await until(lambda: len(heard.told) == 2, "two revocations are heard")
        assert heard.refuses("42")
        assert heard.revocations.is_revoked("43", "9f", NOW)
        assert heard.told == [Revocation("42", NOW), Revocation(jti="9f")]


async def test_a_worker_that_starts_knows_what_was_taken_back_before(pair: Pair) -> None:
    """Worker that starts reads all of the log, page by page, and closes nothing because of an old disconnection."""
    await pair.one.publish([entries.record(Revocation(f"user {number}", NOW)) for number in range(12_000)])
    await publish(pair.one, Disconnection("42"))
    async with listening(pair.other) as heard:
        assert len(heard.revocations) == 12_000
        assert heard.refuses("user 0")
        assert heard.refuses("user 11999")
        assert ("42", None) not in heard.told
        await publish(pair.one, Revocation("last", NOW))
        await until(lambda: heard.refuses("last"), "the next one is heard")


async def test_a_disconnection_closes_and_takes_nothing_back(pair: Pair) -> None:
    """Disconnection is told with its subject and its channel, and tokens stay good."""
    async with listening(pair.other) as heard:
        await publish(pair.one, Disconnection("42"), Disconnection("43", "chat.7"))
        await until(lambda: len(heard.told) == 2, "two disconnections are heard")
        assert heard.told == [("42", None), ("43", "chat.7")]
        assert not heard.refuses("42")


async def test_an_entry_that_cannot_be_read_stops_nothing(pair: Pair) -> None:
    """Message of ``$access`` that is no entry is logged and counted, live or read later, and stops no other."""
    bad = [Record(ACCESS, data) for data in (b"1", b"{}", b'{"revoke": {"sub": 42, "before": 1}}')]
    with capture_logs() as logs:
        async with listening(pair.other) as heard:
            await pair.one.publish([*bad, entries.record(Revocation("42", NOW))])
            await until(lambda: heard.refuses("42"), "the entry after the bad ones is heard")
            assert heard.revocations.ignored == 3
        async with listening(pair.other) as heard:
            assert heard.refuses("42")
            assert heard.revocations.ignored == 3
    ignored = [line for line in logs if line["event"] == "access_entry_ignored"]
    assert [line["offset"] for line in ignored] == [1, 2, 3] * 2


async def test_what_was_lost_on_its_way_is_read_again(pair: Pair) -> None:
    """Worker that lost a batch admits no token until it has read the log, and then closes what it has to."""
    async with listening(pair.other) as heard:
        await publish(pair.one, Disconnection("41"))
        await until(lambda: heard.told, "the first disconnection is heard")
        await pair.other.unfollow(ACCESS)  # and so the next entries do not come
        await publish(pair.one, Revocation("42", NOW), Disconnection("43"))
        heard.revocations.failed()
        assert not heard.revocations.is_loaded
        assert heard.revocations.problem == f"{REFUSED}: it is being read"
        await until(lambda: heard.revocations.is_loaded, "the log was read")
        assert heard.revocations.problem is None
        assert heard.refuses("42")
        assert heard.told == [("41", None), Revocation("42", NOW), ("43", None)]


async def test_a_bug_in_what_is_told_stops_nothing() -> None:
    """Callback that raises is logged, and the token is refused all the same."""

    def fail(_: object) -> None:
        raise RuntimeError

    revocations = Revocations(lambda: LIFETIME, on_revoked=fail)
    with capture_logs() as logs:
        revocations.take(Revocation("42", NOW), NOW)
    assert [line["event"] for line in logs] == ["taking_back_failed"]
    assert revocations.is_revoked("42", None, NOW - 1)


class Away:
    """A source whose backend is away until it is said to be back."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.is_away = True
        self.reads = 0

    async def follow(self, channel: str, sink: Sink) -> None:
        await self._bus.follow(channel, sink)

    async def unfollow(self, channel: str) -> None:
        await self._bus.unfollow(channel)

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        self.reads += 1
        if self.is_away:
            msg = "the database is away"
            raise UnavailableError(msg)
        return await self._bus.read(channel, after, limit, history)


async def test_while_the_log_cannot_be_read_nothing_is_loaded() -> None:
    """Worker whose backend is away says why it admits no token, tries again, and loads when the backend is back."""
    bus = Bus(MemoryBackend(keep))
    source, revocations = Away(bus), Revocations(lambda: LIFETIME)
    async with bus.running():
        await publish(bus, Revocation("42", NOW))
        with capture_logs() as logs:
            running = asyncio.create_task(revocations.run(source))
            await until(lambda: source.reads > 1, "it tries again")
            assert not revocations.is_loaded
            assert revocations.problem == f"{REFUSED}: the database is away"
            source.is_away = False
            await until(lambda: revocations.is_loaded, "it loads")
        assert [line["event"] for line in logs] == ["revocations_unreadable"]
        assert revocations.is_revoked("42", None, NOW - 1)
        running.cancel()


async def test_a_new_epoch_takes_nothing_back_from_memory_and_is_read_anew() -> None:
    """Worker whose log went back keeps refusing what it knows, and reads what the log has now."""
    bus = Bus(MemoryBackend(keep))
    async with bus.running(), listening(bus) as heard:
        await publish(bus, Revocation("42", NOW))
        await until(lambda: heard.refuses("42"), "the revocation is heard")
        await bus.unfollow(ACCESS)  # what comes is in the log alone
        await publish(bus, Revocation("43", NOW))
        heard.revocations.change_epoch(EpochChange(ACCESS, 0, "new", 2))
        assert heard.revocations.is_loaded
        assert heard.refuses("42")
        await until(lambda: heard.refuses("43"), "the log is read anew")


async def test_a_worker_that_follows_already_does_not_follow_twice() -> None:
    """Loading that failed after it began to follow goes on from there."""
    bus = Bus(MemoryBackend(keep))
    source, revocations = Away(bus), Revocations(lambda: LIFETIME)
    async with bus.running():
        for is_away in (True, False):
            source.is_away = is_away
            with contextlib.suppress(UnavailableError):
                await revocations.load(source)
        await publish(bus, Revocation("42", NOW))
        await until(lambda: revocations.is_revoked("42", None, NOW - 1), "the revocation is heard")
        assert revocations.is_loaded


def test_the_repr_counts_and_names_nobody() -> None:
    """Repr says how much is known, and nobody's name."""
    revocations = Revocations(lambda: LIFETIME)
    revocations.start(Position("e", 0))
    revocations.take(Revocation("42", NOW), NOW)
    assert repr(revocations) == "<Revocations 1 known, not loaded>"
