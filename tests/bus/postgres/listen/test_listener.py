"""The listener: one session after the other, until it is told to end."""

import asyncio

from app.bus.follower import Follower
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.postgres.listen.listener import Listener
from app.bus.postgres.listen.outbox_mover import OutboxMover
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import WORDING
from app.core.message import Message
from app.core.ports import UNMETERED


async def test_a_listener_whose_session_fails_as_it_is_ended_ends(url: str) -> None:
    """Listener that is cancelled while one of its session's tasks fails has no other session."""
    notifying = asyncio.Event()

    async def notify(_: str) -> str:
        notifying.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError

    async def fetch(_: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        return {}

    async def move(_: int) -> int:
        return 0

    said = Outcomes("nothing yet", WORDING)
    listener = Listener(parse(url), Follower(fetch), OutboxMover(move, said), notify, UNMETERED, said, inline=True)
    running = asyncio.create_task(listener.run())
    await notifying.wait()
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done == {running}
    assert listener.sessions == 1
