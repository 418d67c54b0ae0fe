"""The application that decides: what it is asked, and what its answers mean, from a server of its own."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog

from app.access.auth_settings import AskSettings
from app.access.remote.answers import MOST_ANSWERS, MOST_KEPT, Answers
from app.access.remote.ask import MOST_AT_ONCE, MOST_QUESTIONS, Asker
from app.core.errors import ForbiddenError, UnavailableError
from app.core.rights.policy import Answer, Forwarded, Question
from app.core.rights.token import Verb
from app.telemetry.metrics import Metrics
from tests.support.site import Request, Site, reply, silence

QUESTION = Question(Verb.SUBSCRIBE, "doc.7", "doc.{id}", "7")
SECRET = "session=f00dfacef00dface"
ME = Forwarded((("cookie", SECRET),), "https://app.example", "192.0.2.1")


class Told(Metrics):
    """The meter, which remembers what failed and what reached a limit."""

    def __init__(self) -> None:
        super().__init__(str)
        self.calls: list[str] = []

    def failed(self, kind: str) -> None:
        self.calls.append(kind)

    def limited(self, limit: str) -> None:
        self.calls.append(limit)


class WallClock:
    """Seconds since the Unix epoch, and what a test adds to them."""

    def __init__(self) -> None:
        self.jump = 0.0

    def __call__(self) -> float:
        return time.time() + self.jump


@asynccontextmanager
async def asker(
    site: Site, seconds: float = 20, told: Told | None = None, now: Callable[[], float] = time.time
) -> AsyncIterator[Asker]:
    asker = Asker(AskSettings(site.url("/auth?x=1"), ("cookie", "authorization"), seconds), told or Told(), now)
    try:
        yield asker
    finally:
        await asker.aclose()


def admitting(**answer: object) -> Callable[[Request], bytes]:
    return lambda _: reply(answer)


async def test_an_application_is_asked_with_the_named_headers_alone() -> None:
    """Application gets the question as JSON with these members, the named headers, and no other of the caller."""
    async with Site(admitting(sub="42")) as site, asker(site) as asking:
        headers = {"cookie": SECRET, "user-agent": "me", "x-other": "1", "host": "abide.example"}
        me = Forwarded(tuple(headers.items()), "https://app.example", "192.0.2.1")
        assert await asking.ask(QUESTION, me) == Answer("42", None)
        [request] = site.requests
        assert request.line == "POST /auth?x=1 HTTP/1.1"
        assert json.loads(request.body) == {
            "action": "subscribe",
            "channel": "doc.7",
            "family": "doc.{id}",
            "parameter": "7",
            "origin": "https://app.example",
            "client": "192.0.2.1",
        }
        assert dict(request.headers) == {
            "host": f"localhost:{site.port}",
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "abide",
            "content-type": "application/json",
            "content-length": str(len(request.body)),
            "cookie": SECRET,
        }


async def test_what_is_not_there_is_null() -> None:
    """Question about a plain channel, from a caller who shows nothing, has null for what is not there."""
    async with Site(admitting()) as site, asker(site) as asking:
        answer = await asking.ask(Question(Verb.PUBLISH, "news", "news", None), Forwarded())
        assert answer == Answer(None, None)
        found = json.loads(site.requests[0].body)
        assert [found[name] for name in ("parameter", "origin", "client")] == [None, None, None]
        assert site.requests[0].values("cookie") == []


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
@pytest.mark.parametrize("body", [b"", b"x" * 70_000])
async def test_an_application_that_refuses_is_forbidding(status: str, body: bytes) -> None:
    """Application's 401 and 403 refuse the caller, whatever their body, and are no failures."""
    told = Told()
    async with Site(lambda _: reply(body, status)) as site, asker(site, told=told) as asking:
        with pytest.raises(ForbiddenError, match=r"doc\.\{id\}") as refusal:
            await asking.ask(QUESTION, ME)
        assert "f00d" not in str(refusal.value)
        assert told.calls == []


def wrong(content: object, status: str = "200 OK", headers: str = "") -> Callable[[Request], bytes]:
    return lambda _: reply(content, status, headers)


FAILURES = {
    "a redirect": wrong({"sub": "42"}, "302 Found", "Location: /login\r\n"),
    "a permanent redirect": wrong({"sub": "42"}, "308 Permanent Redirect", "Location: /login\r\n"),
    "no page": wrong({"sub": "42"}, "404 Not Found"),
    "a limit": wrong({"sub": "42"}, "429 Too Many Requests"),
    "a bug": wrong({"sub": "42"}, "500 Internal Server Error"),
    "something made": wrong({"sub": "42"}, "201 Created"),
    "no content": wrong(b"", "204 No Content"),
    "nothing": wrong(b""),
    "a page": wrong(b"<!doctype html>"),
    "a list": wrong([]),
    "true": wrong(data := True),
    "null": wrong(None),
    "a number as sub": wrong({"sub": 42}),
    "null as sub": wrong({"sub": None}),
    "an empty sub": wrong({"sub": ""}),
    "a sub of two lines": wrong({"sub": "a\nb"}),
    "a long sub": wrong({"sub": "a" * 256}),
    "text as until": wrong({"until": "9999999999"}),
    "true as until": wrong({"until": True}),
    "null as until": wrong({"until": None}),
    "infinity as until": wrong(b'{"until": 1e999}'),
    "NaN as until": wrong(b'{"until": NaN}'),
    "until beyond all time": wrong({"until": 1e15}),
    "until beyond all numbers": wrong(b'{"until": 1' + b"0" * 400 + b"}"),
    "until that is past": wrong({"until": 1_600_000_000}),
    "a negative until": wrong({"until": -1}),
    "a word of its own": wrong({"allowed": False}),
    "a word of its own beside sub": wrong({"sub": "42", "allowed": False}),
    "no UTF-8": wrong(b'{"sub": "\xff"}'),
    "deep JSON": wrong(b'{"sub":' * 9000),
    "too much": wrong(b'{"sub": "42"}' + b" " * 65_536),
    "a bomb": wrong(gzip.compress(b"0" * 10_000_000), headers="Content-Encoding: gzip\r\n"),
    "compression": wrong(gzip.compress(b'{"sub": "42"}'), headers="Content-Encoding: gzip\r\n"),
    "no HTTP": lambda _: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "two lengths": lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "another protocol": lambda _: b"HTTP/1.1 101 Switching Protocols\r\n\r\n{}",
}
del data


@pytest.mark.parametrize("failure", FAILURES)
async def test_any_other_answer_is_no_answer(failure: str) -> None:
    """Application that neither admits nor refuses in the documented form is unavailable: never open, never 403."""
    told = Told()
    async with Site(FAILURES[failure]) as site, asker(site, told=told) as asking:
        with pytest.raises(UnavailableError) as error:
            await asking.ask(QUESTION, ME)
        assert error.value.retry_after == 1
        assert told.calls == ["ask"]
        assert len(site.requests) == 1


async def head_only(_: Request) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"


@pytest.mark.parametrize("answer", [silence, head_only], ids=["nothing", "half an answer"])
async def test_an_application_that_hangs_is_given_up(answer: Callable[[Request], bytes]) -> None:
    """Application that is silent, before its answer or in it, is unavailable after the timeout."""
    async with Site(answer) as site, asker(site, seconds=0.1) as asking:
        with structlog.testing.capture_logs() as log, pytest.raises(UnavailableError):
            await asking.ask(QUESTION, ME)
        assert [line["reason"] for line in log] == ["auth.ask: it has not answered within 0.1 s"]


async def test_nothing_listens_where_the_application_was() -> None:
    """Application that is down is unavailable, and asked again by the next question."""
    async with Site(admitting()) as site:
        pass
    async with asker(site) as asking:
        with pytest.raises(UnavailableError):
            await asking.ask(QUESTION, ME)
        site.answer = admitting(sub="42")
        async with site:
            assert await asking.ask(QUESTION, ME) == Answer("42", None)


async def test_an_answer_without_an_end_is_asked_for_each_time() -> None:
    """Answer without ``until`` is good for one question; a refusal, too."""
    async with Site(admitting(sub="42")) as site, asker(site) as asking:
        await asking.ask(QUESTION, ME)
        await asking.ask(QUESTION, ME)
        assert len(site.requests) == 2
        site.answer = wrong(b"", "403 Forbidden")
        with pytest.raises(ForbiddenError):
            await asking.ask(QUESTION, ME)
        site.answer = admitting(sub="42")
        await asking.ask(QUESTION, ME)
        assert len(site.requests) == 4


async def test_an_answer_with_an_end_is_kept_until_then() -> None:
    """Answer with ``until`` is given to the same question of the same caller until then, by the wall clock."""
    now = WallClock()
    until = time.time() + 100
    async with Site(admitting(sub="42", until=until)) as site, asker(site, now=now) as asking:
        for _ in range(3):
            assert await asking.ask(QUESTION, ME) == Answer("42", until)
        assert len(site.requests) == 1
        now.jump = 101
        site.answer = admitting(sub="43")
        assert await asking.ask(QUESTION, ME) == Answer("43", None)


async def test_a_clock_that_is_set_back_does_not_lengthen_an_answer() -> None:
    """Answer ends when it would have ended without the clock's jump into the past."""
    now = WallClock()
    async with Site(lambda _: reply({"until": now() + 0.2})) as site, asker(site, now=now) as asking:
        await asking.ask(QUESTION, ME)
        now.jump = -3600
        await asking.ask(QUESTION, ME)
        await asyncio.sleep(0.2)
        await asking.ask(QUESTION, ME)
        assert len(site.requests) == 2


async def test_an_answer_is_for_one_caller_and_one_question() -> None:
    """Answer is kept for exactly its question, its headers, its origin and its address, however they would join."""
    until = time.time() + 100
    questions = [
        QUESTION,
        QUESTION._replace(action=Verb.PUBLISH),
        QUESTION._replace(channel="doc.7_", parameter="7_"),
        Question(Verb.SUBSCRIBE, "a_b", "{x}", "a_b"),
        Question(Verb.SUBSCRIBE, "a_b", "a{x}", "_b"),
    ]
    callers = [
        ME,
        ME._replace(origin="https://other.example"),
        ME._replace(origin=None),
        ME._replace(client="192.0.2.2"),
        Forwarded((("cookie", "a_b"), ("authorization", "c"))),
        Forwarded((("cookie", "a"), ("authorization", "b_c"))),
        Forwarded((("cookie", "a_b; authorization: c"),)),
        Forwarded((("authorization", "a_b"),)),
        Forwarded(),
    ]
    async with Site(admitting(until=until)) as site, asker(site) as asking:
        for _ in range(2):
            for question in questions:
                for caller in callers:
                    await asking.ask(question, caller)
        assert len(site.requests) == len(questions) * len(callers)


def test_answers_that_are_kept_are_bounded_in_number_and_size() -> None:
    """Answers used longest ago are dropped, when there are many or when their callers' credentials are long."""
    kept, answer = Answers(time.time), Answer("42", time.time() + 1000)
    question = QUESTION._replace(channel="")
    callers = [Forwarded((), None, str(number)) for number in range(MOST_ANSWERS + 2)]
    for caller in callers[:MOST_ANSWERS]:
        kept.keep((caller, question), answer)
    assert kept.get((callers[0], question)) == answer
    for caller in callers[MOST_ANSWERS:]:
        kept.keep((caller, question), answer)
    assert [kept.get((callers[number], question)) for number in (0, 1, 2, 3)] == [answer, None, None, answer]
    large = [Forwarded((("cookie", "x" * (MOST_KEPT // 4)),), None, str(number)) for number in range(5)]
    for caller in large:
        kept.keep((caller, question), answer)
        kept.keep((caller, question), answer)
    assert [kept.get((caller, question)) for caller in large] == [None, None, answer, answer, answer]
    assert kept.get((callers[0], question)) is None


class Gate:
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, _: Request) -> bytes:
        await self.opened.wait()
        return reply({"sub": "42"})


async def test_a_question_is_asked_once_for_all_who_wait_for_it() -> None:
    """Question that is being asked is not asked again; one asker who leaves does not end it for the others."""
    gate = Gate()
    async with Site(gate) as site, asker(site) as asking:
        tasks = [asyncio.create_task(asking.ask(QUESTION, ME)) for _ in range(5)]
        await site.has_got(1)
        tasks[0].cancel()
        tasks[3].cancel()
        await asyncio.wait({tasks[0], tasks[3]})
        gate.opened.set()
        assert await asyncio.gather(*(tasks[number] for number in (1, 2, 4))) == [Answer("42", None)] * 3
        assert [task.cancelled() for task in tasks] == [True, False, False, True, False]
        assert len(site.requests) == 1


async def test_a_question_that_nobody_waits_for_any_more_ends() -> None:
    """Question whose askers have all left is given up, and asked anew by the next."""
    gate = Gate()
    async with Site(gate) as site, asker(site) as asking:
        tasks = [asyncio.create_task(asking.ask(QUESTION, ME)) for _ in range(2)]
        await site.has_got(1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        gate.opened.set()
        assert await asking.ask(QUESTION, ME) == Answer("42", None)
        assert len(site.requests) == 2


async def test_questions_are_bounded_at_once_and_waiting() -> None:
    """Application has so many questions at once, so many wait for it, and one more is unavailable at once."""
    gate, told = Gate(), Told()
    questions = [QUESTION._replace(channel=f"doc.{number}", parameter=str(number)) for number in range(MOST_QUESTIONS)]
    async with Site(gate) as site, asker(site, seconds=30, told=told) as asking:
        tasks = [asyncio.create_task(asking.ask(question, ME)) for question in questions]
        await site.has_got(MOST_AT_ONCE)
        with pytest.raises(UnavailableError):
            await asking.ask(QUESTION._replace(channel="doc.more"), ME)
        assert told.calls == ["questions"]
        assert (len(site.requests), site.connections) == (MOST_AT_ONCE, MOST_AT_ONCE)
        gate.opened.set()
        assert set(await asyncio.gather(*tasks)) == {Answer("42", None)}


async def test_a_question_that_waits_for_others_is_late_too() -> None:
    """Question behind others that hang is unavailable after the timeout, which counts from its beginning."""
    async with Site(silence) as site, asker(site, seconds=0.3) as asking:
        questions = [QUESTION._replace(channel=str(number)) for number in range(2 * MOST_AT_ONCE)]
        tasks = [asyncio.create_task(asking.ask(question, ME)) for question in questions]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in found} == {UnavailableError}
        assert len(site.requests) < 2 * MOST_AT_ONCE


async def test_closing_ends_what_is_being_asked() -> None:
    """Questions that are being asked when the server stops are unavailable."""
    async with Site(silence) as site, asker(site) as asking:
        task = asyncio.create_task(asking.ask(QUESTION, ME))
        await site.has_got(1)
        await asking.aclose()
        with pytest.raises(UnavailableError):
            await task


async def test_the_loop_runs_while_the_application_hangs_and_fails() -> None:
    """Other work of the process goes on while hundreds of questions hang and then fail."""
    turns = 0

    async def other_work() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with Site(silence) as site, asker(site, seconds=0.3) as asking:
        work = asyncio.create_task(other_work())
        questions = [QUESTION._replace(channel=str(number)) for number in range(MOST_QUESTIONS)]
        found = await asyncio.gather(*(asking.ask(question, ME) for question in questions), return_exceptions=True)
        assert {type(error) for error in found} == {UnavailableError}
        work.cancel()
        assert turns > 100


async def test_cookies_of_one_caller_never_go_to_another() -> None:
    """Cookie that the application sets in its answer is kept for nobody."""
    answer = reply({}, headers="Set-Cookie: session=1; Path=/\r\n")
    async with Site(lambda _: answer) as site, asker(site) as asking:
        await asking.ask(QUESTION, ME)
        await asking.ask(QUESTION, Forwarded())
        assert [request.values("cookie") for request in site.requests] == [[SECRET], []]


async def test_proxies_of_the_environment_get_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment's proxies are not used."""
    async with Site(silence) as proxy, Site(admitting()) as site, asker(site) as asking:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        await asking.ask(QUESTION, ME)
        assert (proxy.connections, site.connections) == (0, 1)


BROKEN_HEADER = Forwarded((("cookie", SECRET + "\r\nX-Admin: 1"),))


@pytest.mark.parametrize("failure", FAILURES)
async def test_no_log_line_has_credentials(failure: str) -> None:
    """Log says why the application gives no answer, and nothing of what was sent; once in ten seconds."""
    async with Site(FAILURES[failure]) as site, asker(site) as asking:
        with structlog.testing.capture_logs() as log:
            for credentials in (ME, ME, BROKEN_HEADER):
                with pytest.raises(UnavailableError) as error:
                    await asking.ask(QUESTION, credentials)
                assert "f00d" not in repr(error.value)
        assert [line["event"] for line in log] == ["ask_failed"]
        assert "f00d" not in repr(log)


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    """Header that would become two is sent to nobody, and is not shown."""
    async with Site(admitting()) as site, asker(site) as asking:
        with structlog.testing.capture_logs() as log, pytest.raises(UnavailableError):
            await asking.ask(QUESTION, BROKEN_HEADER)
        assert "f00d" not in repr(log)
        assert site.requests == []
