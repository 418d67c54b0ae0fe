"""URLs of Redis, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.bus.redis.sessions.address import Address, Server, parse
from app.config.backends.url import refusal
from app.core.message import Published
from tests.bus.redis.conftest import streams
from tests.support.certificate import certificate
from tests.support.readers import says
from tests.support.valkey import ValkeyServer

CHECKED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
UNCHECKED = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
NAMED = {"ssl_ca_certs": "/c.pem"}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis-stream://h", Address("single", (Server("h", 6379),), "", 0, None, None, None)),
        ("redis-stream://:p%40w@h:7/3", Address("single", (Server("h", 7),), "", 3, None, "p@w", None)),
        ("REDISS-stream://me:@[::1]:7/", Address("single", (Server("::1", 7),), "", 0, "me", "", CHECKED)),
        (
            "rediss-stream+cluster://me:pw@a,b:7?ssl_ca_certs=/c.pem",
            Address("cluster", (Server("a", 6379), Server("b", 7)), "", 0, "me", "pw", CHECKED | NAMED),
        ),
        (
            "redis-stream+sentinel://a,b:7/main/2",
            Address("sentinel", (Server("a", 26379), Server("b", 7)), "main", 2, None, None, None),
        ),
        (
            "rediss-stream://h?ssl_cert_reqs=none",
            Address("single", (Server("h", 6379),), "", 0, None, None, UNCHECKED),
        ),
    ],
)  # fmt: skip
def test_a_url_says_where_and_as_whom(url: str, address: Address) -> None:
    """Parse takes a URL that the configuration takes apart into servers, credentials and TLS."""
    assert refusal(url) is None
    assert parse(url) == address


def test_a_place_shows_no_user_and_no_password() -> None:
    """Address names its servers, and the database or the service, and nothing secret."""
    address = parse("redis-stream+sentinel://me:hunter2@a,[::1]:7/main/2")
    assert address.place == "a:26379,[::1]:7/main/2"
    assert "hunter2" not in repr(address)
    assert "me" not in repr(address).replace("main", "")


@contextlib.asynccontextmanager
async def tls(server: ValkeyServer, pem: Path) -> AsyncIterator[int]:
    """Speak TLS on a port of localhost before a server that cannot."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", server.port)
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, there_writer))
                group.create_task(copy(there_reader, writer))

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listener = await asyncio.start_server(relay, "localhost", 0, ssl=context)
    yield listener.sockets[0].getsockname()[1]
    listener.close()


async def test_tls_checks_the_certificate(server: ValkeyServer, tmp_path: Path) -> None:
    """Worker stores over TLS where the authority is named, and says what to add to the URL where it is not."""
    pem = certificate(tmp_path)
    async with tls(server, pem) as port:
        async with streams(f"rediss-stream://localhost:{port}?ssl_ca_certs={pem}") as one:
            assert [type(outcome) for outcome in await one.publish("a", "1")] == [Published]
        async with streams(f"rediss-stream://localhost:{port}", ready=False) as one:
            assert "add ssl_ca_certs=" in await says(one.backend, "certificate")
        async with streams(f"rediss-stream://localhost:{port}?ssl_ca_certs=/nowhere", ready=False) as one:
            assert "check ssl_ca_certs" in await says(one.backend, "No such file")
        async with streams(f"redis-stream://localhost:{port}", ready=False) as one:
            assert "TLS needs rediss" in await says(one.backend, "closed")
    async with streams(f"rediss-stream://{server.place}", ready=False) as one:
        assert "one without it redis" in await says(one.backend, "no answer in time")


async def test_a_server_that_is_no_sentinel_is_said_to_be_none(server: ValkeyServer) -> None:
    """Worker whose URL names a Redis as its sentinel says so, and what to write."""
    async with streams(f"redis-stream+sentinel://{server.place}/main", ready=False) as one:
        assert "without +sentinel" in await says(one.backend, "no sentinel")
