"""What is remembered of what clients send is bounded, whatever they send."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from app.core.channel import Channel, Registry
from app.core.errors import UnsupportedTypeError
from app.server.http.forwarded import TrustedProxies
from app.web.publish import body


def grows_by(work: Callable[[int], object], *, times: int) -> int:
    """Return how many bytes are kept of work that was done so often; what it kept the first time does not count."""
    work(0)
    tracemalloc.start()
    for number in range(1, times):
        work(number)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def test_remembered_names_of_a_family_are_bounded() -> None:
    """Registry remembers what some thousand names stand for, and forgets the oldest of more."""
    registry = Registry((Channel("chat.{room}"),), Channel("defaults"))
    assert grows_by(lambda number: registry.get(f"chat.{number}"), times=50_000) < 4_000_000


def test_long_media_types_are_refused_and_forgotten() -> None:
    """Media type of thousands of characters is refused, and none of it is kept."""

    def ask(number: int) -> None:
        with pytest.raises(UnsupportedTypeError):
            body.media_type({"content-type": f"text/{number}" + "x" * 60_000})

    assert grows_by(ask, times=200) < 200_000


def test_long_forwarded_addresses_are_not_remembered() -> None:
    """Server remembers no address of a proxy that is longer than a name can be."""
    proxies = TrustedProxies(("127.0.0.1",))

    def read(number: int) -> None:
        assert proxies.read([(b"x-forwarded-for", b"192.0.2.%d" % number + b"x" * 60_000)]).client is not None

    assert grows_by(read, times=200) < 200_000
