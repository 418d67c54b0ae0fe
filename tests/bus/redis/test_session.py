"""A session with Redis on the event loop that workers have."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from anyio.from_thread import start_blocking_portal

from app.bus.redis.sessions import address
from app.bus.redis.sessions.faults import LOST
from app.bus.redis.sessions.session import Session, connect
from tests.support.proxy import FaultProxy
from tests.support.valkey import ValkeyServer


async def ask_forever(session: Session) -> None:
    while True:
        await session.send([["PING"]])
        await asyncio.sleep(0)


def test_a_session_whose_connection_was_reset_is_lost(shared: ValkeyServer) -> None:
    """Session that was reset fails as any lost connection does, also where uvloop has noticed it first."""

    async def use() -> None:
        where = address.parse(f"redis-stream://127.0.0.1:{proxy.port}")
        session = await connect(where, where.servers[0], "test")
        portal.call(proxy.cut)
        await asyncio.sleep(0.02)  # for the loop to notice; where it is slower, the test is easier
        with pytest.raises(LOST):
            await ask_forever(session)

    proxy = FaultProxy("127.0.0.1", shared.port)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(proxy):
        uvloop.run(use())
