"""The log in memory."""

import time

import pytest

from app.bus.memory import MemoryBackend
from app.core.channel import History
from app.core.message import Record
from tests.bus.conformance import ALL, Conformance, append, texts


class MemorySubject:
    """A memory backend whose clock a test can set forward."""

    def __init__(self) -> None:
        self.retention: dict[str, History] = {}
        self.offset = 0.0
        self.backend = MemoryBackend(
            lambda channel: self.retention.get(channel, ALL), clock=lambda: time.time() + self.offset
        )

    async def age(self, seconds: float) -> None:
        self.offset += seconds


@pytest.fixture
def subject() -> MemorySubject:
    return MemorySubject()


class TestMemory(Conformance):
    """MemoryBackend keeps the contract."""


async def test_the_log_is_bounded_by_size(subject: MemorySubject) -> None:
    """MemoryBackend lets go of what the history's size no longer covers."""
    subject.retention["a"] = History(size=3, ttl=1000)
    for number in range(10):
        await append(subject, "a", str(number))
    assert await texts(subject, "a", history=ALL) == ["7", "8", "9"]


async def test_the_log_is_bounded_by_age_though_nobody_publishes_there(subject: MemorySubject) -> None:
    """MemoryBackend lets go of old messages of an idle channel when anything else is published."""
    subject.retention["a"] = History(size=10, ttl=60)
    await append(subject, "a", "1")
    await subject.age(120)
    await append(subject, "b", "1")
    assert await texts(subject, "a", history=ALL) == []
    assert await append(subject, "a", "2") == [2]


async def test_each_backend_has_an_epoch_of_its_own() -> None:
    """MemoryBackend of another process cannot be mistaken for this one."""
    assert MemoryBackend(lambda _: ALL).epoch != MemoryBackend(lambda _: ALL).epoch


async def test_it_says_what_it_holds(subject: MemorySubject) -> None:
    """MemoryBackend's repr counts its channels."""
    await subject.backend.append([Record("a", b"1")])
    assert repr(subject.backend) == "<MemoryBackend 1 channels, 0 followed>"
