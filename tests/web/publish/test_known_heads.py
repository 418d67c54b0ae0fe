"""A head that comes again: what its caller may publish is remembered, and ends when it has to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.access.auth_settings import AuthSettings, Key, TokenSettings
from app.access.tokens import Tokens, sign
from app.core.channel import Channel, Registry
from app.core.errors import ForbiddenError
from app.core.limits.limiter import Limiter
from app.core.ports import UNMETERED, Reply
from app.core.rights.policy import KEY, Access, Policy
from app.core.rights.token import Rights
from app.web.edge.auth import Authenticator
from app.web.edge.cors import Cors
from app.web.publish.direct_push import DirectPush
from app.web.publish.permission import Permission, Sender
from app.web.publish.push import Push
from app.web.publish.push_head import PushHead
from app.wire.request_head import parse
from tests.web.publish.test_push_outcomes import STORED, Log
from tests.web.test_remembered import grows_by

NOW = 1_800_000_000.0
SECRETS = (b"a-secret-of-thirty-two-characters",)
SETTINGS = TokenSettings(secrets=SECRETS, leeway=0)
REGISTRY = Registry(
    (Channel("keyed", publish=KEY), Channel("tokens", publish=Policy((Access.TOKEN,)))), Channel("defaults")
)
WAYS = [("/push/{}", b"1"), ("/push", b'{"channel":"%b","message":1}')]


class Issuer:
    """An issuer with one key, or none."""

    generation = 0
    key: Any = None

    def find(self, kid: str | None, alg: str) -> Any:  # noqa: ANN401, ARG002 — a port's signature
        return self.key

    def is_stale_for(self, kid: str | None) -> bool:  # noqa: ARG002 — a port's signature
        return False

    async def refresh(self, kid: str | None) -> None:
        raise AssertionError(kid)


class Served:
    """Pushes of one head, under settings that a test can change."""

    def __init__(
        self, channel: str, bearer: str, way: tuple[str, bytes], *keys: Key, secrets: tuple[bytes, ...] = SECRETS
    ) -> None:
        self.now, self.gone, self.issuer = NOW, False, Issuer()
        self._tokens = replace(SETTINGS, secrets=secrets)
        path, body = way
        self._body = body % channel.encode() if b"%" in body else body
        self.apply(*keys)
        app: Any = None
        self._direct = DirectPush(None, "", lambda: (self._push, Cors(app, self._authenticator.origins)))
        head = f"POST {path.format(channel)} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        request_head = parse(f"{head}authorization: Bearer {bearer}\r\n\r\n".encode())
        assert request_head is not None
        self._head = self._direct.parse(request_head)

    def apply(self, *keys: Key) -> None:
        """Put these keys in force, as a reload does."""
        tokens = Tokens(self._tokens, self.issuer, is_revoked=lambda *_: self.gone, now=lambda: self.now)
        self._authenticator = Authenticator(AuthSettings(keys=keys, tokens=self._tokens), tokens=tokens)
        self._push = Push(REGISTRY, self._authenticator, Log(STORED), UNMETERED, Limiter())

    async def status(self) -> int:
        """Return the status of one more push."""
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        assert self._head is not None
        self._direct(self._head, "192.0.2.1", self._body, lambda *reply: answered.set_result(Reply(*reply)))
        return (await answered).status


@pytest.mark.parametrize("way", WAYS, ids=["a channel", "an envelope"])
async def test_a_key_that_a_reload_removes_publishes_no_more(way: tuple[str, bytes]) -> None:
    """Push of a known head is refused once its key is gone, and taken again when it is back."""
    served = Served("keyed", "a-key-of-a-test", way, Key(b"a-key-of-a-test"))
    assert [await served.status(), await served.status()] == [200, 200]
    served.apply(Key(b"another-key-of-a-test"))
    assert await served.status() == 401
    served.apply(Key(b"a-key-of-a-test"))
    assert await served.status() == 200


@pytest.mark.parametrize("way", WAYS, ids=["a channel", "an envelope"])
async def test_a_token_that_has_ended_publishes_no_more(way: tuple[str, bytes]) -> None:
    """Push of a known head is refused once its token has expired or was taken back."""
    served = Served("tokens", sign(SETTINGS, {"publish": ["tokens"], "exp": NOW + 60}), way)
    assert [await served.status(), await served.status()] == [200, 200]
    served.gone = True
    assert await served.status() == 401
    served.gone = False
    assert await served.status() == 200
    served.now = NOW + 60
    assert await served.status() == 401


async def test_a_token_publishes_no_more_when_its_issuer_drops_its_key() -> None:
    """Push of a known head is refused once its issuer's keys are others, of which none has signed its token."""
    bearer = sign(SETTINGS, {"publish": ["tokens"], "exp": NOW + 60})
    served = Served("tokens", bearer, WAYS[0], secrets=())
    served.issuer.key = SimpleNamespace(key=SECRETS[0])
    assert [await served.status(), await served.status()] == [200, 200]
    served.issuer.key, served.issuer.generation = None, 1
    assert await served.status() == 401


def test_few_permissions_and_few_names_of_each_are_remembered() -> None:
    """Push remembers what the callers of some hundred heads may publish, and of each some names that it has used."""
    registry = Registry((Channel("chat.{room}", publish=KEY),), Channel("defaults"))
    authenticator = Authenticator(AuthSettings(keys=(Key(b"a-key-of-a-test"),)))
    push = Push(registry, authenticator, Log(STORED), UNMETERED, Limiter())
    headers = [(b"content-type", b"text/plain"), (b"authorization", b"Bearer a-key-of-a-test")]
    loop = asyncio.new_event_loop()

    async def publish(number: int) -> None:
        head = PushHead.of(f"/push/chat.{number}", headers)
        push(head, None, b"1", None, lambda _: None)
        await asyncio.sleep(0)

    assert grows_by(lambda number: loop.run_until_complete(publish(number)), times=3000) < 3_000_000
    loop.close()
    some = frozenset(f"chat.{number}" for number in range(3000))
    admitted = enveloped(registry, Rights(publish=some))

    def use(number: int) -> None:
        admitted.channel_named(f"chat.{number}", registry)
        registry.forget_names()

    assert grows_by(use, times=3000) < 100_000


def enveloped(registry: Registry, rights: Rights) -> Permission:
    """Return what the caller may publish whose key has some rights, and whose envelopes name the channels."""
    authenticator = Authenticator(AuthSettings(keys=(Key(b"a-key-of-a-test", rights=rights),)))
    push = Push(registry, authenticator, Log(STORED), UNMETERED, Limiter())
    headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer a-key-of-a-test")]
    admitted = push.admit(PushHead.of("/push", headers), Sender(None, None))
    assert isinstance(admitted, Permission)
    return admitted


@pytest.mark.parametrize("rights", [Rights(frozenset({"chat.*", "talk.1"})), Rights(frozenset({"chat.1", "talk.1"}))])
def test_what_a_caller_may_publish_to_is_remembered_for_that_alone(rights: Rights) -> None:
    """Envelope for a name that the key does not cover is refused, whatever names and families were published to."""
    registry = Registry((Channel("chat.{room}"), Channel("talk.{room}")), Channel("defaults"))
    admitted = enveloped(registry, rights)
    for _ in range(2):
        for name in ("chat.1", "talk.1", "chat.2", "talk.2"):
            if {name, name[:-1] + "*"} & (rights.publish or frozenset()):
                assert admitted.channel_named(name, registry) == (registry.find(name), None)
            else:
                with pytest.raises(ForbiddenError):
                    admitted.channel_named(name, registry)
