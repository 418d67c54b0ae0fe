"""What is remembered of who may publish: only what holds for the next push with the same request head."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from app.access.auth_settings import AskSettings, AuthSettings, TokenSettings
from app.access.tokens import Tokens, sign
from app.core.channel import Channel, Registry
from app.core.limits.limiter import Limiter
from app.core.message import Position, Published, Record
from app.core.ports import UNMETERED, Outcome, Reply
from app.core.rights.policy import Access, Answer, Forwarded, Policy, Question
from app.web.edge.auth import Authenticator
from app.web.publish.push import Push
from app.web.publish.push_head import PushHead

SETTINGS = TokenSettings(secrets=(b"s" * 32,))
TOKEN_OR_ASK = Policy((Access.TOKEN, Access.ASK))


class Application:
    """A publisher that stores nothing, and an application that admits everybody as ``ada``."""

    def __init__(self) -> None:
        self.publishers: list[str] = []
        self.asked = 0

    def publish(self, records: Sequence[Record]) -> asyncio.Future[list[Outcome]]:
        self.publishers += [record.publisher for record in records]
        future = asyncio.get_running_loop().create_future()
        future.set_result([Published(Position("e", 1))] * len(records))
        return future

    async def ask(self, _: Question, __: Forwarded) -> Answer:
        self.asked += 1
        return Answer("ada")


async def test_an_application_is_asked_once_the_token_of_a_known_head_has_ended() -> None:
    """Push whose token is no longer good is asked about, where the application may admit it, however known its head."""
    now = time.time()
    application, jump = Application(), [0.0]
    authenticator = Authenticator(
        AuthSettings(tokens=SETTINGS, ask=AskSettings("http://localhost/", (), 1.0)),
        tokens=Tokens(SETTINGS, now=lambda: now + jump[0]),
        ask=application.ask,
    )
    registry = Registry((Channel("doc", publish=TOKEN_OR_ASK),), Channel("defaults"))
    push = Push(registry, authenticator, application, UNMETERED, Limiter())
    raw = sign(SETTINGS, {"sub": "donny", "exp": int(now) + 60, "publish": ["doc"]})
    headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer " + raw.encode())]
    for path, body in (("/push/doc", b"1"), ("/push", b'{"channel": "doc", "message": 1}')):
        head = PushHead.of(path, headers)

        async def status(head: PushHead = head, body: bytes = body) -> int:
            answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            push(head, None, body, None, answered.set_result)
            return (await answered).status

        jump[0], application.asked, application.publishers = 0.0, 0, []
        assert [await status(), await status()] == [200, 200]
        assert application.asked == 0
        jump[0] = 3600.0
        assert await status() == 200
        assert application.asked == 1
        assert application.publishers == ["sub:donny", "sub:donny", "sub:ada"]
