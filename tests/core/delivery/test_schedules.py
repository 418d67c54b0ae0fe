"""Any schedule of publishes, stalls, disconnects and resumes: what is missing is said, and nothing else is.

Hypothesis prints the schedule that fails, shortened, and the line that replays it.
"""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import Channel, HistoryWindow, Registry
from app.core.delivery.encodings import V1_TEXTS
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.message import Position, Record
from app.core.resume import Gap, Start
from app.core.rights.policy import ANONYMOUS
from tests.support.writers import Stalling, frames

SUBSCRIBERS = 3

Step = tuple[str, int]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 30)),
        st.tuples(st.sampled_from(["stall", "flow", "leave", "return", "join"]), st.integers(0, SUBSCRIBERS - 1)),
        st.tuples(st.just("turns"), st.integers(1, 5)),
    ),
    max_size=40,
)


class Reader(Stalling):
    """A subscriber that writes down all it is told, and comes back where it was."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._readers_hub = hub
        self.expected: int | None = None
        """The offset that must come next; None before the first subscription."""
        self.position: str | None = None
        self.got: list[int] = []

    async def come(self, *, resume: bool) -> None:
        if self.subscription is not None:
            return
        since = Position.parse(self.position) if resume and self.position else None
        subscription, where = await self._readers_hub.subscribe("c", ANONYMOUS, V1_TEXTS, Start(since=since))
        self.subscribed(self._readers_hub, subscription)
        if where.gap is not None:
            self.lost(subscription, where.gap)
        if since is None:
            self.expected = where.cursor + 1
        assert where.resumed == (since is not None and where.gap is None)
        if where.gap is None:
            self.position = str(subscription.position)
        subscription.attach(self, self)

    def write(self, data: bytes) -> None:
        assert self.subscription is not None, "written to after it left"
        for message in frames(data):
            offset = Position.parse(message["position"]).offset
            assert offset == self.expected, f"got {offset}, expected {self.expected}"
            assert message["data"] == offset
            self.expected, self.position = offset + 1, message["position"]
            self.got.append(offset)

    def lost(self, _: Subscription, gap: Gap) -> None:
        assert self.expected is None or gap.next.offset > self.expected, "a gap of nothing"
        self.expected = gap.next.offset
        self.position = str(Position(gap.next.epoch, gap.next.offset - 1))  # or it would be told of the same gap again


async def play(schedule: list[Step], size: int, tail_bytes: int) -> None:
    backend = MemoryBackend(lambda _: HistoryWindow(size=size))
    bus = Bus(backend)
    channel = Channel("c", history=HistoryWindow(size=size))
    hub = Hub(bus, Registry((channel,), Channel("")), tail_bytes=tail_bytes)
    published = 0
    async with bus.running():
        readers = [Reader(hub) for _ in range(SUBSCRIBERS)]
        for action, number in schedule:
            match action:
                case "publish":
                    records = [Record("c", str(published + 1 + n).encode()) for n in range(number)]
                    published += number
                    await bus.publish(records)
                case "turns":
                    for _ in range(number):
                        await asyncio.sleep(0)
                case "return" | "join":
                    await readers[number].come(resume=action == "return")
                case _:
                    getattr(readers[number], action)()
        await finish(bus, readers, published)


async def finish(bus: Bus, readers: list[Reader], published: int) -> None:
    """Let everybody come back and read on: then each must have reached the end."""
    for reader in readers:
        await reader.come(resume=True)
        reader.flow()
    await bus.publish([Record("c", str(published + 1).encode())])
    async with asyncio.timeout(10):
        while any(reader.expected != published + 2 for reader in readers):  # noqa: ASYNC110 — turns are the clock here
            await asyncio.sleep(0)
    for reader in readers:
        assert reader.got == sorted(set(reader.got))
        reader.leave()


@settings(max_examples=150, deadline=None, print_blob=True)
@given(steps, st.sampled_from([0, 3, 20, 1000]), st.sampled_from([1, 600, 1 << 20]))
def test_any_schedule_ends_with_every_message_or_a_gap(schedule: list[Step], size: int, tail_bytes: int) -> None:
    """Subscribers get every message after their position exactly once and in order, or are told what is missing."""
    asyncio.run(play(schedule, size, tail_bytes))
