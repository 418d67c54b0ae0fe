"""Logs that go back: which positions they know, and any schedule of appending, losing, appending and resuming.

The schedules run the code that servers run, from the follower to the subscription, over a log that is only modelled: it
is put back to any earlier state, and loses notifications. Hypothesis prints the schedule that fails, shortened.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bus import follower as follower_module
from app.bus.backend import Backend, BackendHealth
from app.bus.bus import Bus
from app.bus.follower import Follower
from app.bus.place import Place
from app.core import epochs
from app.core.channel import Channel, HistoryWindow, Registry
from app.core.delivery import catchup as catchup_module
from app.core.delivery.encodings import V1_TEXTS
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.epochs import label, shared
from app.core.message import MAX_OFFSET, Batch, EpochChange, Message, Page, Position, Published, Record
from app.core.ports import Outcome
from app.core.resume import Gap, Start
from app.core.rights.policy import ANONYMOUS
from tests.support.writers import Stalling, frames

ROOT = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("epoch", "offset", "lineage", "head", "common"),
    [
        (ROOT, 5, ROOT, 5, 5),
        (ROOT, 6, ROOT, 5, 5),
        (ROOT, 5, "22222222F4P01234567", 9, 3),
        (ROOT, 3, "22222222F4P01234567", 9, 3),
        ("22222222F4P01234567", 7, "22222222F4P01234567", 9, 7),
        ("22222222F4P01234567", 7, ROOT, 9, 3),
        ("22222222F4P01234567", 7, "33333333F3P01234567", 9, 2),
        ("22222222F4P01234567", 7, "33333333F6P01234567", 9, 3),
        ("44444444F8P22222222F4P01234567", 9, "33333333F6P22222222F4P01234567", 9, 5),
        ("44444444F8P22222222F4P01234567", 9, "33333333F6P01234567", 9, 3),
        ("22222222N1P01234567", 7, "33333333N1P01234567", 9, 0),
        ("22222222", 7, ROOT, 9, None),
        ("unknown", 7, ROOT, 9, None),
        ("", 0, ROOT, 9, None),
        ("ÄFNP", 7, ROOT, 9, None),
        (ROOT[:-1] + "x", 3, ROOT, 9, None),
    ],
)
def test_a_position_shares_with_a_log_what_came_before_they_part(
    epoch: str, offset: int, lineage: str, head: int, common: int | None
) -> None:
    """Position shares with a log what was there before either of them began an epoch that the other does not know."""
    lineage, epoch = (
        text.replace("01234567", ROOT[:8]) if len(text) != len(ROOT) else text for text in (lineage, epoch)
    )
    assert shared(Position(epoch, offset), lineage, head) == common


@given(st.lists(st.integers(1, MAX_OFFSET), max_size=40))
def test_a_label_is_the_newest_part_of_a_lineage(offsets: list[int]) -> None:
    """Label has at most 64 characters, is part of a position, ends with a name, and shares all with its lineage."""
    lineage, head = ROOT[:8], 0
    for number, head in enumerate(sorted(offsets)):
        lineage = f"{number:08x}F{head}P{lineage}"
    cut = label(lineage)
    assert len(cut) <= epochs.LABEL
    assert lineage.startswith(cut)
    assert Position.parse(f"{cut}:{head}") == (cut, head)
    assert cut[-8:].isalnum()
    assert cut[-8:].islower() or cut[-8:].isdecimal()
    assert shared(Position(cut, head), lineage, head) == head


class Database:
    """The log of one channel, which can be put back to any state that it had."""

    def __init__(self) -> None:
        self.lineage, self.log = ROOT, list[bytes]()
        self.is_certified = True
        self.workers: list[Worker] = []
        self.lost: Counter[bytes] = Counter()
        """How often each message was away after a backup was put back."""
        self._saved: list[tuple[str, list[bytes]]] = []
        self._name, self._names, self._serial = ROOT[:8], 0, 0

    @property
    def place(self) -> Place:
        """As the database tells it: of what comes next."""
        if not self.is_certified:
            self.is_certified, self._names = True, self._names + 1
            self._name = f"{self._names:08x}"
        if self._name in (self.lineage[:8], *self.lineage.split("P")):
            return Place(self.lineage, len(self.log))
        before = self.lineage if "P" in self.lineage else self.lineage[:8]
        return Place(f"{self._name}F{len(self.log) + 1}P{before}", len(self.log))

    def append(self, count: int) -> list[Position]:
        """Append messages, each of them new, and keep a backup of what was there."""
        self.lineage, head = self.place
        self._saved.append((self.lineage, list(self.log)))
        for _ in range(count):
            self._serial += 1
            self.log.append(b"%d" % self._serial)
        for worker in self.workers:
            worker.hear(self.lineage[:8], self.read(head, count))
        return [Position(label(self.lineage), head + number) for number in range(1, count + 1)]

    def read(self, after: int, limit: int) -> tuple[Message, ...]:
        return tuple(Message(after + 1 + n, 0, data) for n, data in enumerate(self.log[after : after + limit]))

    def restore(self, age: int) -> None:
        """Put back a backup."""
        if self._saved:
            lineage, log = self._saved[-1 - age % len(self._saved)]
            self.lost.update(set(self.log) - set(log))
            self.lineage, self.log, self.is_certified = lineage, list(log), False

    def restart(self) -> None:
        """Lose nothing, and begin another epoch."""
        self.is_certified = False


class Worker(Backend):
    """A worker process on the database, with the follower that it has; it polls when it is told to, or needs to."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._follower = Follower(self._fetch)
        self.is_deaf = False
        self.bus = Bus(self)
        channel = Channel("c", history=HistoryWindow(size=10**6))
        self.hub = Hub(self.bus, Registry((channel,), Channel("")), tail_bytes=800)

    def hear(self, epoch: str, messages: tuple[Message, ...]) -> None:
        if "c" in self._follower and not self.is_deaf:
            self._follower.hear("c", epoch, messages)

    def poll(self) -> None:
        """Do what the listener does each second."""
        for channel, before in self._follower.places().items():
            place = self._database.place
            if place.lineage != before.lineage or place.head < before.head:
                self._follower.judge(channel, before.head, place)
            self._follower.look(channel, place.head)
        self._follower.epoch = self._database.place.lineage[:8]

    async def connect(self) -> None:
        self.poll()

    async def disconnect(self) -> None:
        """Nothing to let go of."""

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:  # noqa: ARG002
        await asyncio.sleep(0)
        return [Published(position) for position in self._database.append(len(records))]

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:  # noqa: ARG002
        await asyncio.sleep(0)
        place = self._database.place
        page = Page(1, place.head, self._database.read(after, min(limit, 7)), place.lineage)
        if place.lineage[:8] != self._follower.epoch:
            asyncio.get_running_loop().call_soon(self.poll)
        await asyncio.sleep(0)
        return page

    async def head(self, channel: str) -> int:  # noqa: ARG002
        return len(self._database.log)

    async def follow(self, channel: str) -> Position:
        return await self._follower.follow(channel, self._place)

    async def unfollow(self, channel: str) -> None:
        self._follower.unfollow(channel)

    async def next_batch(self) -> Batch | EpochChange:
        return await self._follower.next_batch()

    async def health(self) -> BackendHealth:
        return BackendHealth(ok=True, detail="")

    async def _place(self, _: str) -> Place:
        place = self._database.place
        await asyncio.sleep(0)
        return place

    async def _fetch(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        await asyncio.sleep(0)
        found = {channel: (self._database.place, self._database.read(after, 5)) for channel, after in wanted.items()}
        await asyncio.sleep(0)
        return found


class Reader(Stalling):
    """A subscriber that keeps what it is told, goes back where a gap says so, and comes back where it was."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self.position: str | None = None
        self.begin = 0
        self.log: dict[int, bytes] = {}

    @property
    def last(self) -> int:
        return max(self.log, default=self.begin)

    def is_at_the_end(self) -> bool:
        """Whether it has the present log from where it began."""
        present = dict(enumerate(self._database.log[self.begin :], self.begin + 1))
        return self.log == present and self.last == len(self._database.log)

    async def come(self, hub: Hub) -> None:
        if self.subscription is not None:
            return
        since = Position.parse(self.position) if self.position else None
        subscription, where = await hub.subscribe("c", ANONYMOUS, V1_TEXTS, Start(since=since))
        self.subscribed(hub, subscription)
        if where.gap is not None:
            self.lost(subscription, where.gap)
        elif since is None:
            self.begin = where.cursor
        if where.gap is None:
            self.position = str(subscription.position)
        subscription.attach(self, self)

    def write(self, data: bytes) -> None:
        for message in frames(data):
            offset = Position.parse(message["position"]).offset
            assert offset == self.last + 1, f"got {offset} after {self.last}"
            self.log[offset], self.position = b"%d" % message["data"], message["position"]

    def lost(self, _: Subscription, gap: Gap) -> None:
        assert Position.parse(gap.after or "").offset == self.last
        assert gap.next.offset <= self.last, "nothing is lost"
        if gap.next.offset in self.log:
            assert self.log[gap.next.offset] in self._database.lost, "it was never away"
        self.log = {offset: data for offset, data in self.log.items() if offset < gap.next.offset}
        self.begin = min(self.begin, gap.next.offset - 1)
        self.position = str(Position(gap.next.epoch, gap.next.offset - 1))


WORKERS, READERS = 2, 4

Step = tuple[str, int]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 6)),
        st.tuples(st.just("publish unheard"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["come", "leave", "stall", "flow"]), st.integers(0, READERS - 1)),
        st.tuples(st.just("poll"), st.integers(0, WORKERS - 1)),
        st.tuples(st.just("restore"), st.integers(0, 5)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("turns"), st.integers(1, 8)),
    ),
    min_size=10,
    max_size=50,
)


async def play(schedule: list[Step]) -> None:
    database = Database()
    database.workers = workers = [Worker(database) for _ in range(WORKERS)]
    readers = [Reader(database) for _ in range(READERS)]
    async with workers[0].bus.running(), workers[1].bus.running():
        for number, (action, count) in enumerate(schedule):
            match action:
                case "publish" | "publish unheard":
                    for worker in workers:
                        worker.is_deaf = action != "publish"
                    await workers[number % WORKERS].bus.publish([Record("c", b"")] * count)
                case "come":
                    await readers[count].come(workers[number % WORKERS].hub)
                case "poll":
                    workers[count].poll()
                case "turns":
                    await turns(count)
                case "restart":
                    database.restart()
                case "restore":
                    database.restore(count)
                case _:
                    getattr(readers[count], action)()
        await settle(database, readers)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def settle(database: Database, readers: list[Reader]) -> None:
    """Let everybody come back, and read to the end: then each has the present log from where it began."""
    for number, reader in enumerate(readers):
        await reader.come(database.workers[number % WORKERS].hub)
        reader.flow()
    await database.workers[0].bus.publish([Record("c", b"")])
    for _ in range(400):
        for worker in database.workers:
            worker.poll()
        await turns(5)
        if all(reader.is_at_the_end() for reader in readers):
            break
    for reader in readers:
        assert reader.is_at_the_end(), (reader.begin, reader.log, database.log)
        reader.leave()


@settings(max_examples=200, deadline=None, print_blob=True)
@given(steps)
def test_any_schedule_of_losing_ends_with_the_present_log(schedule: list[Step]) -> None:
    """Subscribers have the present log in the end, and were told of a gap exactly where it is another than theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catchup_module, "TURN_SECONDS", 0)
        patch.setattr(follower_module, "REST_SECONDS", 0)
        asyncio.run(play(schedule))
