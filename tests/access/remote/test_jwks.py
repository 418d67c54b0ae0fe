"""The login's keys: how they are fetched, kept, replaced and chosen, from a server of their own."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import jwt
import pytest

from app.access.remote.jwk import MOST_KEYS, RSA
from app.access.remote.jwks import REFRESH_SECONDS, RETRY_SECONDS, UNKNOWN_SECONDS, Jwks
from app.core.errors import UnavailableError
from app.telemetry.metrics import Metrics
from tests.support.certificate import certificate
from tests.support.login import public, sign
from tests.support.site import Request, Site, reply, silence

ALGORITHMS = (*RSA, "ES256", "ES384", "ES512", "EdDSA")
CLAIMS = {"sub": "42"}


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Told(Metrics):
    """The meter, which remembers what failed."""

    def __init__(self) -> None:
        super().__init__(str)
        self.failures: list[str] = []

    def failed(self, kind: str) -> None:
        self.failures.append(kind)


def showing(*keys: object) -> Callable[[Request], bytes]:
    return lambda _: reply({"keys": keys})


@asynccontextmanager
async def login(*keys: object) -> AsyncIterator[tuple[Site, Jwks, Clock, Told]]:
    """Serve keys, and return them as the server has fetched them once."""
    clock, told = Clock(), Told()
    async with Site(showing(*keys)) as site, keys_of(site, clock, told) as jwks:
        await jwks.refresh("first")
        yield site, jwks, clock, told


@asynccontextmanager
async def keys_of(site: Site, clock: Clock, told: Told | None = None) -> AsyncIterator[Jwks]:
    jwks = Jwks(site.url("/.well-known/jwks.json"), told or Told(), clock)
    try:
        yield jwks
    finally:
        await jwks.aclose()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_key_verifies_what_its_login_has_signed(algorithm: str) -> None:
    """Key of the document verifies a token of its login, by the key's algorithm and no other."""
    async with login(public(algorithm, kid="a")) as (_, jwks, _, _):
        key = jwks.find("a", algorithm)
        assert key is not None
        assert jwt.decode(sign(CLAIMS, algorithm, "a"), key) == CLAIMS
        others = {"none", "HS256", "HS384", "HS512", "ES256K", "", *ALGORITHMS} - {algorithm}
        assert [other for other in others if jwks.find("a", other)] == []


async def test_a_key_without_an_algorithm_verifies_by_those_of_its_type() -> None:
    """Key that names no algorithm verifies by all of its type and curve."""
    keys = public("RS256", kid="rsa", alg=None), public("ES384", kid="ec", alg=None, use=None)
    async with login(*keys) as (_, jwks, _, _):
        assert {algorithm for algorithm in ALGORITHMS if jwks.find("rsa", algorithm)} == set(RSA)
        assert {algorithm for algorithm in ALGORITHMS if jwks.find("ec", algorithm)} == {"ES384"}
        for algorithm in ("RS512", "PS256"):
            key = jwks.find("rsa", algorithm)
            assert key is not None
            assert jwt.decode(sign(CLAIMS, algorithm, "rsa"), key) == CLAIMS


UNUSABLE = {
    "secret": {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMw", "alg": "HS256", "kid": "bad"},
    "for encryption": public("RS256", kid="bad", use="enc"),
    "to sign with": public("RS256", kid="bad", use=None, key_ops=["sign"]),
    "operations of a wrong type": public("RS256", kid="bad", key_ops="verify"),
    "of another curve": public("ES256K", kid="bad"),
    "of a curve that its algorithm is not for": public("ES256", kid="bad", alg="ES384"),
    "for an algorithm that hashes": public("RS256", kid="bad", alg="HS256"),
    "for no algorithm": public("RS256", kid="bad", alg="none"),
    "for an algorithm of encryption": public("RS256", kid="bad", alg="RSA-OAEP"),
    "with an algorithm of a wrong type": public("RS256", kid="bad", alg=["RS256"]),
    "weak": public("RS256", "1024", kid="bad"),
    "huge": public("RS256", kid="bad", n="v" * 3000),
    "with a huge exponent": public("RS256", kid="bad", e="v" * 300),
    "with an even exponent": public("RS256", kid="bad", e="AAAC"),
    "no base64": public("RS256", kid="bad", n="é" * 400),
    "off its curve": public("ES256", kid="bad", x="A" * 43),
    "short of a coordinate": public("ES256", kid="bad", y=None),
    "with a number for a coordinate": public("ES256", kid="bad", y=5),
    "with a number for its name": public("ES256", kid=5),
    "with a list for its name": public("ES256", kid=["bad"]),
    "with its private half": public("ES256", kid="bad", d="A" * 43),
    "of no type": {"kid": "bad"},
    "of an odd type": public("RS256", kid="bad", kty=["RSA"]),
    "a list": ["bad"],
    "nothing": None,
}


async def test_a_key_that_cannot_be_used_is_skipped() -> None:
    """Keys that are no sound public keys for signatures are skipped, and those around them are used."""
    async with login(public("RS256", kid="first"), *UNUSABLE.values(), public("ES256", kid="last")) as (_, jwks, _, _):
        assert jwks.find("first", "RS256")
        assert jwks.find("last", "ES256")
        for kid in ("bad", None):
            assert [found for algorithm in (*ALGORITHMS, "HS256", "none") if (found := jwks.find(kid, algorithm))] == [
                found for algorithm in ("RS256", "ES256") if kid is None and (found := jwks.find(kid, algorithm))
            ]
        assert jwks.problem is None


@pytest.mark.parametrize("what", UNUSABLE)
async def test_a_document_without_a_usable_key_is_a_problem(what: str) -> None:
    """Document that has only a key that cannot be used is reported, and tokens are refused for now."""
    told = Told()
    async with Site(showing(UNUSABLE[what])) as site, keys_of(site, Clock(), told) as jwks:
        with pytest.raises(UnavailableError):
            await jwks.refresh("bad")
        assert jwks.problem == "auth.tokens.jwks: none of its keys can be used"
        assert told.failures == ["jwks"]


async def test_of_too_many_keys_the_first_are_used() -> None:
    """Document with more keys than are looked at is used up to there."""
    key = public("EdDSA")
    async with login(*({**key, "kid": str(number)} for number in range(MOST_KEYS + 2))) as (_, jwks, _, _):
        assert jwks.find(str(MOST_KEYS - 1), "EdDSA")
        assert jwks.find(str(MOST_KEYS), "EdDSA") is None


async def test_of_two_keys_with_one_name_neither_is_used() -> None:
    """Keys that share a name are used only where one alone fits the algorithm; the same key twice is one."""
    keys = [public("ES256", "a", kid="x"), public("ES256", "b", kid="x"), public("RS256", kid="x")]
    async with login(*keys, public("EdDSA", kid="y"), public("EdDSA", kid="y")) as (_, jwks, _, _):
        assert jwks.find("x", "ES256") is None
        assert jwks.find("x", "RS256")
        assert jwks.find("y", "EdDSA")


async def test_without_a_name_only_the_one_key_that_fits_is_found() -> None:
    """Token without a key's name is verified where exactly one key fits its algorithm."""
    keys = public("ES256", "a", kid="x"), public("ES256", "b", kid="y"), public("RS256")
    async with login(*keys) as (_, jwks, _, _):
        assert jwks.find(None, "ES256") is None
        assert jwks.find(None, "RS256")
        assert jwks.find("", "RS256") is None


async def test_an_unknown_key_asks_again_but_seldom() -> None:
    """Unknown names cause one request in ten seconds, however many there are and however many wait."""
    async with login(public("ES256", "a", kid="first")) as (site, jwks, clock, _):
        site.answer = showing(public("ES256", "b", kid="second"))
        for kid in ("second", "third", "fourth"):
            assert not jwks.is_stale_for(kid)
            await jwks.refresh(kid)
        assert len(site.requests) == 1
        clock.seconds += UNKNOWN_SECONDS
        assert jwks.is_stale_for("second")
        await asyncio.gather(*(jwks.refresh(kid) for kid in ("second", "third", "second", "fourth")))
        assert len(site.requests) == 2
        assert jwks.find("second", "ES256")
        await jwks.refresh("third")
        assert len(site.requests) == 2


async def test_a_key_that_is_known_is_not_asked_for() -> None:
    """Known name causes no request, whatever its token's algorithm."""
    async with login(public("ES256", kid="first")) as (site, jwks, clock, _):
        clock.seconds += 1000
        assert not jwks.is_stale_for("first")
        await jwks.refresh("first")
        assert len(site.requests) == 1


async def test_a_key_that_was_taken_away_is_dropped() -> None:
    """Key that the new document no longer has verifies nothing from then on."""
    async with login(public("ES256", "a", kid="first"), public("ES256", "b", kid="both")) as (site, jwks, clock, _):
        generation = jwks.generation
        site.answer = showing(public("ES256", "b", kid="both"))
        clock.seconds += UNKNOWN_SECONDS
        await jwks.refresh("new")
        assert jwks.find("first", "ES256") is None
        assert jwks.find("both", "ES256")
        assert jwks.generation != generation


async def test_a_key_under_the_name_of_another_replaces_it() -> None:
    """Name that has another key in the new document means that one."""
    async with login(public("ES256", "a", kid="first")) as (site, jwks, clock, _):
        site.answer = showing(public("ES256", "b", kid="first"))
        clock.seconds += UNKNOWN_SECONDS
        generation = jwks.generation
        await jwks.refresh("new")
        key = jwks.find("first", "ES256")
        assert key is not None
        assert jwt.decode(sign(CLAIMS, "ES256", "first", "b"), key) == CLAIMS
        assert jwks.generation == generation + 1


def endless(_: Request) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 70_000 + b"0\r\n\r\n"


FAILURES = {
    "elsewhere": lambda _: reply(b"", "302 Found", "Location: /elsewhere\r\n"),
    "gone": lambda _: reply({"keys": [public("ES256", kid="x")]}, "404 Not Found"),
    "broken": lambda _: reply(b"", "500 Internal Server Error"),
    "no content": lambda _: reply(b"", "204 No Content"),
    "no JSON": lambda _: reply(b"<html>"),
    "NaN": lambda _: reply(b'{"keys": [], "x": NaN}'),
    "deep": lambda _: reply(b"[" * 60_000),
    "a list": lambda _: reply([]),
    "no list of keys": lambda _: reply({"keys": {}}),
    "nothing of keys": lambda _: reply({}),
    "long": lambda _: reply({"keys": [], "x": "x" * 65_536}),
    "endless": endless,
    "compressed": lambda _: reply(gzip.compress(b"0" * 10_000_000), headers="Content-Encoding: gzip\r\n"),
    "cut off": lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0900\r\nContent-Length: 9\r\n\r\n",
    "no HTTP": lambda _: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "proxied": lambda _: b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_document_that_cannot_be_had_leaves_the_keys_that_were(failure: str) -> None:
    """Answer that is no set of keys changes none of them, is reported and counted, and refuses other keys for now."""
    async with login(public("ES256", kid="first")) as (site, jwks, clock, told):
        site.answer = FAILURES[failure]
        clock.seconds += UNKNOWN_SECONDS
        with pytest.raises(UnavailableError) as error:
            await jwks.refresh("second")
        assert error.value.retry_after == RETRY_SECONDS
        assert jwks.find("first", "ES256")
        assert jwks.is_stale_for("second")
        assert jwks.problem is not None
        assert jwks.problem.startswith("auth.tokens.jwks: ")
        assert told.failures == ["jwks"]
        with pytest.raises(UnavailableError):
            await jwks.refresh("second")
        assert [request.line for request in site.requests] == ["GET /.well-known/jwks.json HTTP/1.1"] * 2


async def test_a_login_that_hangs_is_given_up() -> None:
    """Login that does not answer is given up after three seconds; meanwhile known keys verify, and the loop runs."""
    async with login(public("ES256", kid="first")) as (site, jwks, clock, _):
        site.answer = silence
        clock.seconds += UNKNOWN_SECONDS
        waiting = asyncio.create_task(jwks.refresh("second"))
        await site.has_got(2)
        assert jwks.find("first", "ES256")
        with pytest.raises(UnavailableError):
            await waiting
        assert jwks.problem == "auth.tokens.jwks: it has not answered within 3 s"


async def test_a_waiter_that_is_cancelled_leaves_the_others() -> None:
    """Cancelling one who waits for the keys cancels neither the request nor the others."""
    free = asyncio.Event()

    async def when_free(_: Request) -> bytes:
        await free.wait()
        return reply({"keys": [public("ES256", kid="first")]})

    async with Site(when_free) as site, keys_of(site, Clock()) as jwks:
        first, second = (asyncio.create_task(jwks.refresh("first")) for _ in range(2))
        await site.has_got(1)
        first.cancel()
        free.set()
        await second
        assert first.cancelled()
        assert jwks.find("first", "ES256")
        assert len(site.requests) == 1


@asynccontextmanager
async def running(jwks: Jwks) -> AsyncIterator[None]:
    task = asyncio.create_task(jwks.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_keys_are_fetched_at_start_and_again_until_they_come() -> None:
    """Keys are asked for at the start, again soon after a failure, and now and then after that."""
    clock = Clock()
    async with Site(FAILURES["broken"]) as site, keys_of(site, clock) as jwks:
        with pytest.raises(UnavailableError):
            await jwks.refresh("first")
        async with running(jwks):
            site.answer = showing(public("ES256", kid="first"))
            clock.seconds += RETRY_SECONDS
            await site.has_got(2)
            await jwks.refresh("first")
            assert jwks.problem is None
            site.answer = showing(public("ES256", kid="second"))
            clock.seconds += REFRESH_SECONDS
            await site.has_got(3)
            await jwks.refresh("second")
            assert jwks.find("second", "ES256")
        assert RETRY_SECONDS <= 10


async def test_nothing_listens_at_the_url() -> None:
    """Login whose port is closed is a problem that says so."""
    async with Site(silence) as site:
        pass
    async with keys_of(site, Clock()) as jwks:
        with pytest.raises(UnavailableError):
            await jwks.refresh("first")
        assert jwks.problem is not None
        assert jwks.problem.startswith("auth.tokens.jwks: it cannot be reached: ")


async def test_proxies_and_cookies_have_no_part_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment's proxies are not used, a cookie of the login is not sent back, and no compression is asked for."""
    async with Site(silence) as proxy, Site(showing()) as site, keys_of(site, clock := Clock()) as jwks:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        site.answer = lambda _: reply({"keys": [public("ES256", kid="x")]}, headers="Set-Cookie: a=b; Path=/\r\n")
        await jwks.refresh("x")
        clock.seconds += UNKNOWN_SECONDS
        await jwks.refresh("y")
        assert proxy.requests == []
        assert len(site.requests) == 2
        assert all(request.values("cookie") == [] for request in site.requests)
        assert all(request.values("accept-encoding") == ["identity"] for request in site.requests)


async def test_a_certificate_counts_where_its_authority_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Login over TLS is believed where the system, or SSL_CERT_FILE, trusts its certificate, and nowhere else."""
    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    async with Site(showing(public("ES256", kid="x")), context) as site:
        async with keys_of(site, Clock()) as jwks:
            with pytest.raises(UnavailableError):
                await jwks.refresh("x")
            assert jwks.problem is not None
            assert "CERTIFICATE_VERIFY_FAILED" in jwks.problem
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        async with keys_of(site, Clock()) as jwks:
            await jwks.refresh("x")
            assert jwks.find("x", "ES256")
