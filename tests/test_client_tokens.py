"""The Python client with tokens, against a real server."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from app.client import ClientError, publish, subscribe
from tests.support.server import Server
from tests.support.tokens import OLD_SECRET, SECRET, token_of

KEY = "first-key-1"
CHANNELS = f"""
backend: memory://
auth: {{keys: {KEY}, tokens: {{secret: {SECRET}, leeway: 1s}}}}
channels:
  "user.{{id}}": {{subscribe: {{claim: sub}}, publish: [key, {{claim: sub}}]}}
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(channels=CHANNELS) as server:
        yield server.url


class Login:
    """A function for tokens: its n-th call does what the n-th function says, and all later ones what the last says."""

    def __init__(self, *answers: Callable[[], str]) -> None:
        self._answers = answers
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(time.monotonic())
        return self._answers[min(len(self.times), len(self._answers)) - 1]()

    @property
    def is_calm(self) -> bool:
        """Whether it was called at most once a second."""
        return all(later - earlier >= 1 for earlier, later in itertools.pairwise(self.times))


def be_away() -> str:
    msg = "the login does not answer"
    raise ConnectionError(msg)


async def test_a_token_is_replaced_on_an_open_connection(url: str) -> None:
    """Subscriber gets each message on one connection, long after its first token has ended."""
    login, notices = Login(lambda: token_of("refreshed", 2.2)), list[str]()
    messages = subscribe(url, "user.refreshed", token=login, since="earliest", on_notice=notices.append)
    async with contextlib.aclosing(messages), asyncio.timeout(20):
        end = time.monotonic() + 3.7
        while time.monotonic() < end:
            position = await publish(url, "user.refreshed", len(login.times), key=KEY)
            assert (await anext(messages)).position == position
            await asyncio.sleep(0.05)
    assert notices == []
    assert len(login.times) > 1
    assert login.is_calm


async def test_a_token_that_was_taken_back_is_replaced(url: str) -> None:
    """Subscriber whose token was taken back asks for another until its login is there, and misses nothing."""
    login, notices = Login(lambda: token_of("revoked", age=60), be_away, lambda: token_of("revoked")), list[str]()
    messages = subscribe(url, "user.revoked", token=login, since="earliest", on_notice=notices.append)
    async with contextlib.aclosing(messages), httpx.AsyncClient(base_url=url) as server, asyncio.timeout(20):
        first = await publish(url, "user.revoked", 1, key=KEY)
        assert (await anext(messages)).position == first
        taken = {"sub": "revoked", "before": time.time() - 30}
        (await server.post("/revoke", json=taken, headers={"Authorization": f"Bearer {KEY}"})).raise_for_status()
        second = await publish(url, "user.revoked", 2, key=KEY)
        assert (await anext(messages)).position == second
    assert len(login.times) == 3
    assert login.is_calm
    assert [notice.partition(" (")[0] for notice in notices] == [
        "not connected: the connection ended with 4401",
        f"connected again, after {first}",
    ]


def same() -> Callable[[], str]:
    """Return a function that always returns one token, which the server does not take."""
    bad = token_of("wrong", secret=OLD_SECRET)
    return lambda: bad


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (same(), "returned the one that the server refused"),
        (lambda: token_of("wrong", secret=OLD_SECRET), "token"),
        (be_away, "no token: the login does not answer"),
    ],
    ids=["same", "bad", "failing"],
)
async def test_a_function_without_a_good_token_is_an_error(url: str, answer: Callable[[], str], message: str) -> None:
    """Client whose function has no token that the server takes asks it once more, and then says so."""
    subscriber, publisher = Login(answer), Login(answer)
    outcomes = await asyncio.gather(
        anext(subscribe(url, "user.wrong", token=subscriber)),
        publish(url, "user.wrong", 1, token=publisher),
        return_exceptions=True,
    )
    for outcome, login in zip(outcomes, (subscriber, publisher), strict=True):
        assert isinstance(outcome, ClientError)
        assert message in str(outcome)
        assert outcome.code == "unauthorised"
        assert len(login.times) == 2
        assert login.is_calm


async def test_a_text_that_is_refused_is_an_error(url: str) -> None:
    """Client that was given a token as a text says at once that it is not good, or that it has ended."""
    for attempt in (anext(subscribe(url, "user.text", token="no.such.token")), publish(url, "user.text", 1, token="x")):
        with pytest.raises(ClientError) as refused:
            await attempt
        assert (refused.value.status, refused.value.code) == (401, "unauthorised")
    with pytest.raises(ClientError) as ended:
        await anext(subscribe(url, "user.text", token=token_of("text", 1)))
    assert (ended.value.status, ended.value.code) == (4408, "expired")


async def test_a_publisher_whose_token_is_refused_takes_another(url: str) -> None:
    """Publisher asks for another token when one is refused, and publishes with it."""
    login = Login(lambda: token_of("author", -10), lambda: token_of("author"))
    assert (await publish(url, "user.author", 1, token=login)).endswith(":1")
    assert (await publish(url, "user.author", 2, token=lambda: token_of("author"))).endswith(":2")
    assert len(login.times) == 2


async def test_an_error_points_at_what_does_not_fit() -> None:
    """Publisher of a message that does not fit its schema gets the JSON pointer, and does not try again."""
    problem = b'{"code":"schema_mismatch","detail":"it is no number","pointer":"/id","status":422}'
    attempts: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 422 Unprocessable\r\nContent-Length: %d\r\n\r\n%b" % (len(problem), problem))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(ClientError) as refused:
            await publish(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "x", {"id": "a"})
    assert (refused.value.code, refused.value.status, refused.value.pointer) == ("schema_mismatch", 422, "/id")
    assert len(attempts) == 1
