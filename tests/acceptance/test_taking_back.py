"""Tokens that are taken back, on two servers of two workers each: from SQL and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.postgres import PostgresServer
from tests.support.readers import until
from tests.support.server import Server
from tests.web.publish.test_push import assert_problem

SECRET = "a-secret-of-at-least-32-bytes-for-hs256"
KEY = {"authorization": "Bearer first-key-1"}
CHANNELS = f"""\
backend: ${{DATABASE_URL}}
auth: {{keys: first-key-1, tokens: {{secret: {SECRET}}}}}
channels:
  news: {{publish: [key, token], subscribe: token}}
  other: {{publish: key, subscribe: token}}
"""
GRANTS = ["news", "other"]


def token(sub: str, *, age: float = 10, **claims: object) -> str:
    """Return a token that was issued ``age`` seconds ago."""
    now = time.time()
    body = {"sub": sub, "iat": now - age, "exp": now + 600, "publish": GRANTS, "subscribe": GRANTS, **claims}
    return jwt.encode(body, SECRET, "HS256")


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def url(postgres: PostgresServer, template: str) -> Iterator[str]:
    name = asyncio.run(postgres.create_database(template))
    yield postgres.url(name)
    asyncio.run(postgres.drop_database(name))


def serving(url: str, ready_path: str = "/health/ready") -> Server:
    env = {"DATABASE_URL": url, "WEB_CONCURRENCY": "2"}
    return Server(channels=CHANNELS, env=env, ready_path=ready_path)


@pytest.fixture(scope="module")
def servers(url: str) -> Iterator[tuple[Server, Server]]:
    with serving(url) as one, serving(url) as other:
        yield one, other


@pytest.fixture
async def sql(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    connection.terminate()


class Crowd:
    """Subscribers of two servers, and how each ended."""

    def __init__(self) -> None:
        self.ended: dict[ClientConnection, int] = {}
        self.got: dict[ClientConnection, list[str]] = {}
        self._readers: list[asyncio.Task[None]] = []

    async def join(self, servers: tuple[Server, Server], count: int, bearing: str, channel: str = "news") -> Any:  # noqa: ANN401
        """Connect so many to each server; return their sockets."""
        joining = [
            connect(f"{server.ws_url}/{channel}", additional_headers=bearer(bearing))
            for server in servers
            for _ in range(count)
        ]
        sockets = await asyncio.gather(*joining)
        self._readers += [asyncio.create_task(self._read(socket)) for socket in sockets]
        return set(sockets)

    async def leave(self) -> None:
        """Close what is open."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*(socket.close() for socket in self.got), return_exceptions=True)
        await asyncio.wait(self._readers)

    async def _read(self, socket: ClientConnection) -> None:
        self.got[socket] = []
        try:
            while True:
                self.got[socket].append(str(await socket.recv()))
        except ConnectionClosed:
            self.ended[socket] = socket.close_code or 0


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    crowd = Crowd()
    yield crowd
    await crowd.leave()


async def test_a_committed_revocation_closes_exactly_the_tokens_of_its_subject(
    servers: tuple[Server, Server], sql: asyncpg.Connection, crowd: Crowd
) -> None:
    """Revocation closes all connections of its subject and no others, and one that is undone closes none."""
    others = await crowd.join(servers, 20, token("other"))
    newer = await crowd.join(servers, 4, token("banned", age=-20))
    banned = await crowd.join(servers, 10, token("banned"))
    await sql.execute("BEGIN; SELECT abide.revoke('other'); ROLLBACK")
    await sql.execute("BEGIN; CREATE TABLE public.bans (id text); SELECT abide.revoke('banned'); COMMIT")
    await until(lambda: len(crowd.ended) == len(banned), "the banned are closed")
    await sql.execute("SELECT abide.publish('news', '1')")
    await until(lambda: all(crowd.got[socket] for socket in others | newer), "the others go on")
    assert set(crowd.ended) == banned
    assert set(crowd.ended.values()) == {4401}
    assert [crowd.got[socket] for socket in banned if crowd.got[socket]] == []


async def test_a_token_that_was_taken_back_is_refused_by_every_worker(servers: tuple[Server, Server]) -> None:
    """Token is refused at once where it was taken back over HTTP, soon everywhere else, and stays refused."""
    one, _ = servers
    text, later = token("left"), token("left", age=-20)
    async with httpx.AsyncClient() as http:

        async def push(server: Server, bearing: str) -> httpx.Response:
            return await http.post(f"{server.url}/push/news", json=1, headers=bearer(bearing) | {"connection": "close"})

        assert (await push(one, text)).status_code == 200
        assert (await http.post(f"{one.url}/revoke", json={"sub": "left"}, headers=KEY)).status_code == 200
        for server in servers:

            async def refused(server: Server = server) -> bool:
                return {(await push(server, text)).status_code for _ in range(8)} == {401}

            await until(refused, "every worker refuses it")
            assert_problem(await push(server, text), 401, "unauthorised", "taken back")
            assert (await push(server, later)).status_code == 200
            with pytest.raises(InvalidStatus):
                await connect(f"{server.ws_url}/news", additional_headers=bearer(text))


async def test_one_token_is_taken_back_and_another_of_its_subject_stays(
    servers: tuple[Server, Server], sql: asyncpg.Connection, crowd: Crowd
) -> None:
    """Token that is taken back by its id is closed everywhere, and others of its subject stay open."""
    stolen = await crowd.join(servers, 4, token("owner", jti="stolen"))
    await crowd.join(servers, 4, token("owner", jti="kept"))
    await sql.execute("SELECT abide.revoke_token('stolen')")
    await until(lambda: len(crowd.ended) == len(stolen), "the stolen one is closed")
    assert set(crowd.ended) == stolen
    assert set(crowd.ended.values()) == {4401}


async def test_a_disconnected_user_may_come_back(
    servers: tuple[Server, Server], sql: asyncpg.Connection, crowd: Crowd
) -> None:
    """Disconnection closes one channel, or all, everywhere, and its token is still good."""
    text = token("moved")
    news = await crowd.join(servers, 3, text)
    other = await crowd.join(servers, 3, text, "other")
    await sql.execute("SELECT abide.disconnect('moved', 'other')")
    await until(lambda: len(crowd.ended) == len(other), "the subscriptions to one channel end")
    assert set(crowd.ended) == other
    async with httpx.AsyncClient() as http:
        await http.post(f"{servers[1].url}/disconnect", json={"sub": "moved"}, headers=KEY)
    await until(lambda: len(crowd.ended) == len(other | news), "all connections end")
    back = await crowd.join(servers, 3, text)
    assert not back & set(crowd.ended)


async def test_a_ticket_is_good_on_another_server_and_once(servers: tuple[Server, Server]) -> None:
    """Ticket that one server issued opens one socket on the other, and no second one anywhere."""
    one, other = servers
    async with httpx.AsyncClient() as http:
        issued = (await http.post(f"{one.url}/ticket", headers=bearer(token("traveller")))).json()
    async with connect(f"{other.ws_url}/news?ticket={issued['ticket']}"):
        pass
    for server in servers:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"{server.ws_url}/news?ticket={issued['ticket']}")
        assert caught.value.response.status_code == 401


async def test_a_server_that_starts_admits_no_token_before_it_knows_what_was_taken_back(
    postgres: PostgresServer, template: str
) -> None:
    """Server that starts knows what was committed while none ran; until it does, tokens are 503 and it is not ready."""
    name = await postgres.create_database(template)
    sql = await asyncpg.connect(postgres.url(name))
    await sql.execute("SELECT abide.revoke('gone'), abide.revoke_token('9f')")
    await sql.execute("BEGIN; SELECT FROM abide.turn WHERE what = 'drain' FOR UPDATE")  # so they stay in the outbox
    with contextlib.ExitStack() as stack:
        server = await asyncio.to_thread(lambda: stack.enter_context(serving(postgres.url(name), "/health/live")))
        async with httpx.AsyncClient() as http:

            async def push(text: str) -> httpx.Response:
                return await http.post(f"{server.url}/push/news", json=1, headers=bearer(text))

            early = await push(token("here"))
            assert_problem(early, 503, "unavailable", "tokens are refused until it is known which were taken back")
            assert int(early.headers["retry-after"]) > 0
            ready = await http.get(f"{server.url}/health/ready", headers=KEY)
            assert ready.status_code == 503
            assert "until it is known which were taken back" in str(ready.json()["reasons"])
            await sql.execute("ROLLBACK")

            async def knows() -> bool:
                return {(await push(token("here"))).status_code for _ in range(8)} == {200}

            await until(knows, "both workers know")
            assert (await http.get(f"{server.url}/health/ready")).status_code == 200
            for text in (token("gone"), token("here", jti="9f")):
                assert_problem(await push(text), 401, "unauthorised", "taken back")
    sql.terminate()
    await postgres.drop_database(name)
