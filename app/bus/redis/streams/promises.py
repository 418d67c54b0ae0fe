"""What a 200 means: read from the settings of the servers at start and after each reconnect, and said in the log."""

from __future__ import annotations

import contextlib

import structlog
from redis.exceptions import RedisError, ResponseError

from app.bus.redis.sessions.address import Server
from app.bus.redis.sessions.faults import LOST
from app.bus.redis.sessions.pool import Pool
from app.bus.redis.sessions.primaries import Primaries
from app.core.errors import UnavailableError

_UNKNOWN = "unknown"

_MEANINGS = {
    "always": "a 200 means that the message is on the server's disk",
    "everysec": "a crash of the server or its machine loses what was stored in the last second or two",
    "no": "a crash of the server's machine loses what the system has not written yet, maybe half a minute",
    _UNKNOWN: "CONFIG GET is refused, so ask whoever runs it what a crash loses",
}
_NO_FILE = "appendonly is no, so a restart loses what was stored since the last snapshot, maybe all of it"
_EVICTION = (
    "Redis may delete messages, positions and idempotency keys when it reaches maxmemory: set maxmemory-policy to "
    "noeviction"
)

_ATTEMPTS = 3

_log = structlog.get_logger(__name__)


class Promises:
    """Says in the log what is new of it."""

    def __init__(self, primaries: Primaries, pool: Pool, replicas: int) -> None:
        self._primaries = primaries
        self._pool = pool
        self._replicas = replicas
        self._told: set[tuple[object, ...]] = set()

    async def tell(self) -> None:
        """Read the settings of each primary, and log those that have not been logged. Never raises."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(UnavailableError, RedisError, *LOST):  # a session may have ended meanwhile
                for server in await self._primaries.all():
                    await self._tell(server)
                return

    async def _tell(self, server: Server) -> None:
        commands = [("INFO", "persistence"), ("INFO", "memory"), ("CONFIG", "GET", "appendfsync")]
        async with self._pool.session(server) as session:
            persistence, memory, config = await session.calls(commands)
        appendonly = _field(persistence, "aof_enabled") == "1"
        appendfsync = _UNKNOWN if isinstance(config, ResponseError) or not config else config[1].decode()
        settings = ("yes" if appendonly else "no", appendfsync)
        if self._is_new("durability", server, *settings):
            meaning = _MEANINGS.get(appendfsync, "") if appendonly else _NO_FILE
            _log.info(
                "redis_durability", server=str(server), appendonly=settings[0], appendfsync=appendfsync,
                min_replicas=self._replicas, detail=meaning,
            )  # fmt: skip
        maxmemory, policy = _field(memory, "maxmemory"), _field(memory, "maxmemory_policy")
        is_danger = maxmemory != "0" and policy != "noeviction"
        if is_danger and self._is_new("eviction", server, maxmemory, policy):
            _log.warning(
                "redis_eviction", server=str(server), maxmemory=maxmemory, maxmemory_policy=policy, detail=_EVICTION
            )

    def _is_new(self, *fact: object) -> bool:
        if fact in self._told:
            return False
        self._told.add(fact)
        return True


def _field(info: bytes | ResponseError, name: str) -> str:
    """Return a field of an answer to INFO; empty if there is none."""
    lines = [] if isinstance(info, ResponseError) else info.decode().splitlines()
    return next((line.partition(":")[2] for line in lines if line.startswith(f"{name}:")), "")
