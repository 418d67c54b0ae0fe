"""A run of the fuzz: batches of clients, and after each whether the server serves others as before."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from app.core.tail import TAIL_BYTES
from tests.support import metrics
from tests.support.fuzz.client import PATIENCE, Client, WrongError, play
from tests.support.fuzz.scripts import NEVER, Script, script
from tests.support.server import Server
from tests.support.wire import PING, TEXT, frame

CHANNELS = """\
backend: memory://
defaults: {publish: anyone, history: {size: 20}}
channels:
  news: {}
  events: {client_publish: true}
  "chat.{room}": {client_publish: true}
"""

GROWTH = 32.0
"""MiB by which the worker may be larger in the end than after the first tenth of the frames.

A long run has more messages than the worker keeps for all channels together: it begins with as many small ones.
"""

_SMALL = "x" * 10
_COUNTED = 160
"""Bytes that the worker counts for a message besides its data."""

_TWICE = 2
"""What a channel drops it lets go of when that is half of what it has."""

_SENT = 1000
"""Messages that are sent in a row."""

_AT_ONCE = 16
"""Clients of a batch."""

_SELDOM = 20
"""Batches from one look at the metrics to the next."""

_SHOWN = 4000
"""Bytes of a connection that are shown when it went wrong: the seed and its number give them all."""

_WARM = 0.1
"""The part of the frames that warms the worker up."""


@dataclass
class Run:
    """What was done."""

    seed: int
    frames: int = 0
    connections: int = 0
    seconds: float = 0
    warm: float = 0
    """MiB of the worker after the first tenth of the frames."""
    end: float = 0
    """MiB of the worker in the end."""
    codes: Counter[int | None] = field(default_factory=Counter)
    """How often each code closed a connection."""

    def __str__(self) -> str:
        codes = ", ".join(f"{code} x {times:,}" for code, times in sorted(self.codes.items(), key=str))
        return (
            f"seed {self.seed}: {self.frames:,} frames on {self.connections:,} connections in {self.seconds:.0f} s, "
            f"worker {self.warm:.1f} MiB when warm and {self.end:.1f} MiB in the end; closed with {codes}"
        )


def fuzz(
    server: Server, seed: int, frames: int, *, is_long: bool = False, say: Callable[[str], None] = lambda _: None
) -> Run:
    """Send so many frames. Raises :class:`WrongError` with the seed and the bytes, as soon as something is wrong."""
    run = Run(seed)
    with asyncio.Runner() as runner:
        runner.run(_fuzz(server, run, frames, say, is_long=is_long))
    return run


def replay(server: Server, seed: int, number: int) -> int | None:
    """Play one connection again; return its close code. Raises :class:`WrongError`."""

    async def again() -> int | None:
        async with _Canary(server) as canary:
            code = await play(server.port, script(seed, number))
            await canary.look(-1)
            return code

    with asyncio.Runner() as runner:
        return runner.run(again())


async def _fuzz(server: Server, run: Run, frames: int, say: Callable[[str], None], *, is_long: bool) -> None:
    begun = time.monotonic()
    batches = 0
    async with _Canary(server) as canary:
        if is_long:
            await canary.fill()
        while run.frames < frames:
            numbers = range(run.connections, run.connections + _AT_ONCE)
            scripts = [script(run.seed, number) for number in numbers]
            await _play_all(server, run, numbers, scripts)
            run.connections += _AT_ONCE
            run.frames += sum(one.frames for one in scripts)
            try:
                await canary.look(batches)
                if batches % _SELDOM == 0 or run.frames >= frames:
                    await canary.count()
                    say(f"{run.frames:,} frames, {time.monotonic() - begun:.0f} s, {memory(canary.pid):.1f} MiB")
            except WrongError as error:
                msg = f"seed {run.seed}, after connections {numbers[0]} to {numbers[-1]}: {error}"
                raise WrongError(msg) from None
            if not run.warm and run.frames >= frames * _WARM:
                run.warm = memory(canary.pid)
            batches += 1
        run.end = memory(canary.pid)
    run.seconds = time.monotonic() - begun
    if run.end > run.warm + GROWTH:
        msg = f"the worker grew by more than {GROWTH:g} MiB: {run}"
        raise WrongError(msg)


async def _play_all(server: Server, run: Run, numbers: range, scripts: list[Script]) -> None:
    ends = await asyncio.gather(*(play(server.port, one) for one in scripts), return_exceptions=True)
    for number, one, end in zip(numbers, scripts, ends, strict=True):
        if isinstance(end, BaseException):
            msg = (
                f"seed {run.seed}, connection {number} to {one.path} ({one.subprotocol}, {one.ending}): {end!r}\n"
                f"Again: python -m tests.fuzz --seed {run.seed} --connection {number}\n"
                f"It sent {b''.join(one.segments)[:_SHOWN]!r}"
            )
            raise WrongError(msg) from end
        run.codes[end] += 1


class _Canary:
    """A subscriber that does nothing wrong, on ``/ws``; it hears what the clients publish."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._heard: set[str] = set()
        self._read = 0  # lines of the log
        self._client: Client
        self._listening: asyncio.Task[None]

    @property
    def pid(self) -> int:
        """The worker's."""
        pid: int = self._server.wait_log(lambda line: line.get("event") == "serving")["pid"]
        return pid

    async def __aenter__(self) -> Self:
        self._client = await Client.open(self._server.port, "/ws", "abide.v1", self._hear)
        self._listening = asyncio.create_task(self._client.listen())
        for number, channel in enumerate(("events", "news", "chat.a")):
            text = json.dumps({"type": "subscribe", "id": number, "channel": channel})
            await self._client.send(frame(TEXT, text.encode()))
        await self._client.until(lambda: len(self._client.answered) == 3, "the subscriptions of the canary")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.end()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def fill(self) -> None:
        """Let the worker keep as many of the newest messages as it ever will, each of which came alone."""
        client = await Client.open(self._server.port, "/events", None)
        listening = asyncio.create_task(client.listen())
        frames = frame(TEXT, json.dumps(_SMALL).encode()) * _SENT
        for number in range(1 + _TWICE * TAIL_BYTES // (_SENT * (len(_SMALL) + _COUNTED))):
            await client.send(frames + frame(PING, b"%d" % number))
            await client.until(lambda: client.is_over or b"%d" % number in client.pongs, "the pong of the first client")  # noqa: B023 — it is awaited here
            await self.look(-number)
        client.end()
        await listening

    async def look(self, number: int) -> None:
        """Raise :class:`WrongError` unless others are served, and nothing was stored or logged that must not be."""
        data, ping = f"canary {number}", b"canary %d" % number
        status = await asyncio.to_thread(self._post, "/push/news", data)
        if status != http.HTTPStatus.OK:
            msg = f"a push was answered {status}"
            raise WrongError(msg)
        client = self._client
        await client.until(lambda: client.is_over or data in self._heard, "the canary's message")
        await client.send(frame(PING, ping))
        await client.until(lambda: client.is_over or ping in client.pongs, "the canary's pong")
        if self._listening.done():
            self._listening.result()
        if client.is_over:
            msg = f"the canary was closed with {client.code}"
            raise WrongError(msg)
        if stored := [text for text in self._heard if text.startswith(NEVER)]:
            msg = f"messages were stored whose ids are none: {stored}"
            raise WrongError(msg)
        self._heard.clear()
        client.pongs.clear()
        self._read_log()

    async def count(self) -> None:
        """Raise :class:`WrongError` unless the canary's is the only connection that is left."""
        try:
            await asyncio.to_thread(
                metrics.expect,
                self._server.url,
                {'abide_connections{kind="websocket"}': 1}
                | {f'abide_subscribers{{channel="{name}"}}': 1 for name in ("events", "news", "chat.{room}")},
                timeout=PATIENCE,
            )
        except AssertionError as error:
            raise WrongError(str(error)) from None

    def _hear(self, message: dict[str, Any]) -> None:
        if isinstance(data := message.get("data"), str) and data.startswith((NEVER, "canary")):
            self._heard.add(data)

    def _post(self, path: str, data: object) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=PATIENCE)
        try:
            connection.request("POST", path, json.dumps(data), {"Content-Type": "application/json"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            msg = f"a push was not answered: {error!r}"
            raise WrongError(msg) from None
        finally:
            connection.close()

    def _read_log(self) -> None:
        lines = self._server.log[self._read :]
        self._read += len(lines)
        text = "\n".join([*map(json.dumps, lines), *self._server.unparsed, *self._server.stderr])
        wrong = [
            line
            for line in lines
            if line.get("level") in ("error", "critical")
            or line.get("event") == "connection_failed"
            or line.get("status", 0) >= http.HTTPStatus.INTERNAL_SERVER_ERROR
        ]
        if wrong or "Traceback" in text:
            msg = f"the log has {wrong or text[-5000:]}"
            raise WrongError(msg)


def memory(pid: int) -> float:
    """Return MiB of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
