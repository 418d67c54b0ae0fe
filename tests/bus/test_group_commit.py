"""Group commit: one append at a time, batches by themselves, a bounded queue."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from app.bus import group_commit
from app.bus.group_commit import GroupCommit
from app.core.errors import AbideError, OverloadedError, UnavailableError
from app.core.message import Position, Published, Record
from app.core.ports import Outcome


class Log:
    """Appends when a test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.error: Exception | None = None
        self.withheld = 0
        """How many outcomes each append leaves out, as a broken backend does."""

    async def append(self, records: Sequence[Record], _: float) -> list[Outcome]:
        self.batches.append([record.data.decode() for record in records])
        self.entered.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        return [Published(Position("e", int(record.data))) for record in records[: len(records) - self.withheld]]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def group(log: Log) -> AsyncIterator[GroupCommit]:
    group = GroupCommit(log.append)
    task = asyncio.create_task(group.run())
    yield group
    group.close()
    log.gate.set()
    await task


def publish(group: GroupCommit, *texts: str) -> asyncio.Future[list[Outcome]]:
    return asyncio.ensure_future(group.publish([Record("c", text.encode()) for text in texts]))


async def times(number: int, seconds: float) -> None:
    """Return when so many seconds have passed so many times: however busy the machine is, the loop turns between."""
    for _ in range(number):
        await asyncio.sleep(seconds)


async def test_what_comes_during_an_append_goes_into_the_next_together(group: GroupCommit, log: Log) -> None:
    """GroupCommit appends the first message alone and joins the rest."""
    first = publish(group, "1")
    await log.entered.wait()
    rest = [publish(group, "2", "3"), publish(group, "4")]
    await asyncio.sleep(0)
    log.gate.set()
    outcomes = [await task for task in [first, *rest]]
    assert log.batches == [["1"], ["2", "3", "4"]]
    assert [[o.position.offset for o in got if isinstance(o, Published)] for got in outcomes] == [[1], [2, 3], [4]]


async def test_a_full_queue_refuses(group: GroupCommit, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """GroupCommit refuses what does not fit, and takes more when there is room."""
    monkeypatch.setattr(group_commit, "MAX_WAITING_MESSAGES", 3)
    running = publish(group, "1")
    await log.entered.wait()
    waiting = publish(group, "2", "3")
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="already wait for the backend"):
        await group.publish([Record("c", b"4")])
    log.gate.set()
    await asyncio.gather(running, waiting)
    assert len(await group.publish([Record("c", b"5")])) == 1


async def test_what_waits_behind_an_append_that_is_stuck_is_refused_in_time(
    group: GroupCommit, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GroupCommit refuses what has waited for its patience, counted from its arrival, and has room again."""
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(group_commit, "MAX_WAITING_MESSAGES", 3)
    stuck = publish(group, "1")
    await log.entered.wait()
    for _ in range(2):
        patience = asyncio.create_task(times(5, group_commit.PATIENCE_SECONDS))
        began = time.monotonic()
        answers = await asyncio.gather(publish(group, "2"), publish(group, "3"))
        assert time.monotonic() - began > 0.2
        assert not patience.done()
        patience.cancel()
        for (outcome,) in answers:
            assert type(outcome) is UnavailableError
            assert "not stored" in str(outcome)
    assert not stuck.done()
    log.gate.set()
    await stuck
    assert log.batches == [["1"]]


async def test_a_batch_is_bounded(group: GroupCommit, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """GroupCommit closes a batch at its limit of messages, never inside a submission."""
    monkeypatch.setattr(group_commit, "MAX_BATCH_MESSAGES", 2)
    running = publish(group, "0")
    await log.entered.wait()
    tasks = [publish(group, "1"), publish(group, "2", "3", "4"), publish(group, "5"), publish(group, "6")]
    await asyncio.sleep(0)
    log.gate.set()
    await asyncio.gather(running, *tasks)
    assert log.batches == [["0"], ["1"], ["2", "3", "4"], ["5", "6"]]


async def test_who_is_answered_first_is_appended_while_the_rest_is_answered(
    group: GroupCommit, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GroupCommit begins the next append with those publishers of a large batch that it has answered first."""
    monkeypatch.setattr(group_commit, "_ANSWERED_AT_ONCE", 2)
    log.gate.set()

    async def twice(number: int) -> list[int]:
        answers = [await group.publish([Record("c", str(number + add).encode())]) for add in (0, 10)]
        return [o.position.offset for [o] in answers if isinstance(o, Published)]

    got = await asyncio.gather(*(twice(number) for number in range(5)))
    assert got == [[number, number + 10] for number in range(5)]
    assert log.batches[:2] == [["0", "1", "2", "3", "4"], ["10", "11"]]
    assert sorted(text for batch in log.batches[2:] for text in batch) == ["12", "13", "14"]


async def test_the_next_append_begins_before_the_last_is_answered(group: GroupCommit, log: Log) -> None:
    """GroupCommit gives the backend what waits before it answers, so that neither waits for the other."""
    appends: list[int] = []
    first = group.publish([Record("c", b"1")])
    first.add_done_callback(lambda _: appends.append(len(log.batches)))
    await log.entered.wait()
    second = group.publish([Record("c", b"2")])
    log.gate.set()
    await asyncio.gather(first, second)
    assert appends == [2]


async def test_who_is_answered_first_is_in_the_next_append_where_few_are_better(log: Log) -> None:
    """Publisher that publishes as soon as it is answered is appended together with what has waited."""
    group = GroupCommit(log.append, answers_first=True)
    task = asyncio.create_task(group.run())
    group.publish([Record("c", b"1")]).add_done_callback(lambda _: group.publish([Record("c", b"3")]))
    await log.entered.wait()
    waiting = publish(group, "2")
    log.gate.set()
    await waiting
    assert log.batches == [["1"], ["2", "3"]]
    group.close()
    await task


async def test_publishers_that_publish_at_once_again_leave_the_loop_to_others(group: GroupCommit, log: Log) -> None:
    """GroupCommit lets the event loop turn after each batch, though the answers of each publish the next."""
    log.gate.set()
    left, turns = 100, 0

    def again(_: object) -> None:
        nonlocal left
        left -= 1
        if left:
            group.publish([Record("c", b"1")]).add_done_callback(again)

    again(None)
    while left:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 99


async def test_what_is_known_is_told_later(group: GroupCommit, log: Log) -> None:
    """Submission that is settled calls back nonetheless, and never within the call that asks for it."""
    log.gate.set()
    submission = group.publish([Record("c", b"1")])
    with pytest.raises(asyncio.InvalidStateError):
        submission.result()
    outcomes = await submission
    told: list[list[Outcome]] = []
    submission.add_done_callback(lambda one: told.append(one.result()))
    assert told == []
    await asyncio.sleep(0)
    assert told == [outcomes]
    assert await submission is outcomes


async def test_a_bug_of_one_publisher_is_not_the_next_ones(group: GroupCommit, log: Log) -> None:
    """GroupCommit reports a callback that fails to the loop, and tells the others."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    broken, fine = group.publish([Record("c", b"1")]), publish(group, "2")
    broken.add_done_callback(lambda _: 1 / 0)
    log.gate.set()
    assert len(await fine) == 1
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_a_backend_that_answers_too_little_fails_its_batch(group: GroupCommit, log: Log) -> None:
    """GroupCommit whose backend answers fewer outcomes than there are records fails them all, and goes on."""
    log.gate.set()
    log.withheld = 1
    with capture_logs():
        outcomes = await asyncio.wait_for(publish(group, "1", "2"), 5)
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 2
    log.withheld = 0
    assert isinstance((await asyncio.wait_for(publish(group, "3"), 5))[0], Published)


@pytest.mark.parametrize("error", [UnavailableError("gone"), RuntimeError("a bug")])
async def test_a_failed_append_fails_its_messages_and_no_others(group: GroupCommit, log: Log, error: Exception) -> None:
    """GroupCommit tells every publisher of a failed batch, and goes on."""
    log.gate.set()
    log.error = error
    (outcome,) = await group.publish([Record("c", b"1")])
    assert isinstance(outcome, AbideError)
    log.error = None
    (outcome,) = await group.publish([Record("c", b"2")])
    assert isinstance(outcome, Published)


async def test_a_publisher_that_goes_away_takes_nothing_with_it(group: GroupCommit, log: Log) -> None:
    """GroupCommit stores what was accepted though nobody waits for the answer."""
    gone, stays = publish(group, "1"), publish(group, "2")
    await log.entered.wait()
    gone.cancel()
    log.gate.set()
    assert len(await stays) == 1
    assert [text for batch in log.batches for text in batch] == ["1", "2"]


async def test_closing_finishes_what_waits_and_refuses_the_rest(log: Log) -> None:
    """GroupCommit ends when everything accepted is stored."""
    group = GroupCommit(log.append)
    running = asyncio.create_task(group.run())
    waiting = publish(group, "1")
    await log.entered.wait()
    group.close()
    with pytest.raises(UnavailableError, match="stopping"):
        await group.publish([Record("c", b"2")])
    log.gate.set()
    await running
    assert len(await waiting) == 1
    assert repr(group) == "<GroupCommit 0 messages, 0 bytes waiting>"
