"""The fault proxy does to connections what networks do to them."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from tests.support.proxy import FaultProxy

pytestmark = pytest.mark.anyio

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SILENCE = 0.2  # Seconds without a byte that count as silence.


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[FaultProxy, list[Streams]]]:
    """Run a proxy before a server that returns what it gets; give also the server's ends of the connections."""
    ends: list[Streams] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append((reader, writer))
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy, ends


@asynccontextmanager
async def connection(proxy: FaultProxy) -> AsyncIterator[Streams]:
    """Connect a client through the proxy; abort it at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def ask(streams: Streams, data: bytes = b"ping") -> float:
    """Send data, wait until it has come back, and return the seconds that it took."""
    reader, writer = streams
    began = time.perf_counter()
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    return time.perf_counter() - began


async def test_a_proxy_without_a_fault_passes_everything() -> None:
    """Proxy without a fault passes large data both ways, and the end of the stream."""
    async with echo() as (proxy, _), connection(proxy) as client:
        await ask(client, bytes(3_000_000))
        client[1].write_eof()
        assert await client[0].read() == b""
        assert (proxy.accepted, proxy.refused) == (1, 0)


async def test_a_cut_resets_both_ends_and_new_connections_pass() -> None:
    """Proxy cuts every live connection with a reset at both ends, and takes new ones."""
    async with echo() as (proxy, ends), connection(proxy) as client:
        await ask(client)
        assert proxy.live == 1
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await client[0].read()
        with pytest.raises(ConnectionResetError):
            await ends[0][1].wait_closed()
        assert proxy.live == 0
        async with connection(proxy) as again:
            await ask(again)


async def test_a_cut_ends_a_silent_connection_too() -> None:
    """Proxy cuts a connection that it has only just accepted while half open."""
    async with echo() as (proxy, _):
        proxy.half_open()
        async with connection(proxy) as client:
            await proxy.wait_accepted(1)
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                await client[0].read()


async def test_a_half_open_proxy_is_silent_until_it_is_healed() -> None:
    """Proxy half open keeps old and new connections open and silent, and delivers everything when healed."""
    async with echo() as (proxy, ends), connection(proxy) as old:
        await ask(old)
        proxy.half_open()
        old[1].write(b"late")
        async with connection(proxy) as new:
            new[1].write(b"new")
            for reader, _ in (old, new):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.read(1), SILENCE)
            assert proxy.live == 2
            assert len(ends) == 1
            proxy.heal()
            assert await old[0].readexactly(4) == b"late"
            assert await new[0].readexactly(3) == b"new"


async def test_a_half_open_proxy_hides_the_end() -> None:
    """Proxy half open doesn't tell one end that the other has gone, by close or by reset."""
    async with echo() as (proxy, ends), connection(proxy) as client:
        await ask(client)
        proxy.half_open()
        ends[0][1].transport.abort()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client[0].read(1), SILENCE)
        proxy.heal()
        assert await client[0].read(1) == b""


async def test_a_delay_holds_each_direction_once() -> None:
    """Proxy delays each direction, without making what follows at once wait any longer."""
    async with echo() as (proxy, _), connection(proxy) as client:
        await ask(client)
        proxy.delay(0.1)
        assert 0.2 <= await ask(client) < 0.5
        assert 0.2 <= await ask(client, bytes(1_000_000)) < 0.6
        proxy.heal()
        assert await ask(client) < 0.1


async def test_a_throttle_bounds_the_bytes_of_a_second() -> None:
    """Proxy throttles each direction to so many bytes a second."""
    async with echo() as (proxy, _), connection(proxy) as client:
        proxy.throttle(50_000)
        assert 0.3 < await ask(client, bytes(20_000)) < 1.5


async def test_a_forging_proxy_replaces_bytes_until_it_is_healed() -> None:
    """Proxy replaces bytes until it is healed."""
    async with echo() as (proxy, _), connection(proxy) as client:
        proxy.forge(b"b", b"x")
        client[1].write(b"abc")
        assert await client[0].readexactly(3) == b"axc"
        proxy.heal()
        client[1].write(b"abc")
        assert await client[0].readexactly(3) == b"abc"


async def test_a_refusing_proxy_resets_new_connections_alone() -> None:
    """Proxy refuses new connections with a reset until it is healed, and leaves live ones alone."""
    async with echo() as (proxy, _), connection(proxy) as live:
        await ask(live)
        proxy.refuse()
        async with connection(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await client[0].read()
        await ask(live)
        assert (proxy.accepted, proxy.refused, proxy.live) == (1, 1, 1)
        proxy.heal()
        async with connection(proxy) as client:
            await ask(client)


async def test_a_client_is_reset_when_the_target_is_down() -> None:
    """Proxy resets a client whose target can't be reached."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        async with FaultProxy("127.0.0.1", unheard.getsockname()[1]) as proxy, connection(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await client[0].read()


async def test_a_waiting_test_is_woken_by_a_reconnection() -> None:
    """Proxy wakes a test that waits for a reconnection."""
    async with echo() as (proxy, _), anyio.create_task_group() as group:
        group.start_soon(proxy.wait_accepted, 2)
        async with connection(proxy) as first, connection(proxy) as second:
            await ask(first)
            await ask(second)


@pytest.mark.parametrize("fault", [FaultProxy.half_open, FaultProxy.refuse, FaultProxy.heal])
async def test_a_proxy_leaves_no_task_behind(fault: Callable[[FaultProxy], None]) -> None:
    """Proxy leaves no task behind, whatever its fault and however full its connections."""
    async with echo() as (target, _):
        before = asyncio.all_tasks()
        async with FaultProxy("127.0.0.1", target.port) as proxy, connection(proxy) as client:
            await ask(client)
            fault(proxy)
            client[1].write(bytes(10_000_000))
            await asyncio.sleep(0.05)
        target.cut()
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == before


async def test_a_proxy_tells_its_state() -> None:
    """Proxy tells its state."""
    async with FaultProxy("127.0.0.1", 9) as proxy:
        proxy.half_open()
        assert repr(proxy) == f"<FaultProxy 127.0.0.1:{proxy.port} to 127.0.0.1:9, 0 live, half open>"


def test_a_synchronous_test_uses_a_portal() -> None:
    """Proxy serves a synchronous test through a portal."""
    with start_blocking_portal() as portal:
        proxy = FaultProxy("127.0.0.1", 9)
        with portal.wrap_async_context_manager(proxy):
            portal.call(proxy.refuse)
            with socket.create_connection(("127.0.0.1", proxy.port)) as client, pytest.raises(ConnectionResetError):
                client.recv(1)


async def test_forgotten_connections_are_left_without_a_word() -> None:
    """Proxy that has forgotten its connections leaves both ends without a word, also healed; new ones flow."""
    async with echo() as (proxy, _), connection(proxy) as old:
        await ask(old)
        proxy.forget()
        old[1].write(b"lost")
        proxy.heal()
        async with connection(proxy) as new:
            await ask(new)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(old[0].read(1), SILENCE)


async def test_new_connections_are_led_to_the_other_server() -> None:
    """Proxy whose name has moved leads new connections to the other server, and leaves the old ones alone."""
    async with echo() as (proxy, ends), echo() as (other, others), connection(proxy) as old:
        await ask(old)
        proxy.lead_to(other.port)
        async with connection(proxy) as new:
            await ask(new)
        await ask(old)
        assert (len(ends), len(others)) == (1, 1)
