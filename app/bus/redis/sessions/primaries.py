"""Which servers take writes: the one of the URL, the one that sentinels name, or the primaries of a cluster."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from redis.crc import key_slot
from redis.exceptions import RedisError

from app.bus.redis.sessions.address import Address, Server
from app.bus.redis.sessions.faults import LOST, explain
from app.bus.redis.sessions.session import Session, connect
from app.core.errors import UnavailableError

_SLOTS = 16384


class Primaries:
    """Knows the primary of each key. What it knows may be out of date: :meth:`look_again` then."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._begins: list[int] = []
        """The first slot of each range, ascending."""
        self._servers: list[Server] = []
        """The primary of each range; empty where they have to be looked for."""
        self._known: list[Server] = []
        """The primaries that were found last."""
        self._moved: dict[int, Server] = {}
        """Slots that a node has said are elsewhere since the cluster was last looked at."""

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over several."""
        return self._address.kind == "cluster"

    async def of(self, key: str) -> Server:
        """Return the primary of a key. Raises :class:`UnavailableError`."""
        if not self._servers:
            await self._look()
        if not self.is_cluster:
            return self._servers[0]
        slot = key_slot(key.encode())
        return self._moved.get(slot) or self._servers[bisect_right(self._begins, slot) - 1]

    async def all(self) -> list[Server]:
        """Return every primary that has slots, once. Raises :class:`UnavailableError`."""
        if not self._servers:
            await self._look()
        return list(dict.fromkeys(self._servers))

    def last(self, key: str) -> Server | None:
        """Return the primary that the key had when the cluster was last looked at; None without a cluster. No I/O."""
        if not self.is_cluster or not self._known:
            return None
        return self._known[bisect_right(self._begins, key_slot(key.encode())) - 1]

    def look_again(self) -> None:
        """Ask again before the next use: a primary was lost, or is none any more."""
        self._servers = []

    def moved(self, slot: int, server: Server) -> None:
        """Learn from a node that a slot is elsewhere."""
        self._moved[slot] = server
        self._servers = []

    async def _look(self) -> None:
        if self._address.kind == "single":
            self._servers = list(self._address.servers)
            return
        reasons = []
        for server in dict.fromkeys([*self._address.servers, *self._known]):
            try:
                await self._ask(server)
            except (UnavailableError, RedisError, *LOST) as error:
                reasons.append(explain(error) if isinstance(error, UnavailableError) else f"{server}: {explain(error)}")
            else:
                return
        raise UnavailableError("; ".join(reasons))

    async def _ask(self, server: Server) -> None:
        is_sentinel = self._address.kind == "sentinel"
        session = await connect(self._address, server, "abide-look", is_sentinel=is_sentinel)
        try:
            if is_sentinel:
                self._servers = [await self._of_sentinel(session)]
            else:
                self._take(server, await session.call("CLUSTER", "SLOTS"))
        finally:
            await session.close()

    async def _of_sentinel(self, session: Session) -> Server:
        answer = await session.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
        if answer is None:
            msg = (
                f"the sentinel at {session.server} knows no service {self._address.service!r}: correct its name in "
                "the URL (SENTINEL MASTERS lists them)"
            )
            raise UnavailableError(msg)
        return Server(answer[0].decode(), int(answer[1]))

    def _take(self, asked: Server, ranges: list[Any]) -> None:
        found = sorted((begin, _node(asked, primary)) for begin, _, primary, *_ in ranges)
        if sum(last - begin + 1 for begin, last, *_ in ranges) < _SLOTS:
            msg = f"the cluster at {asked} has slots that no node serves: CLUSTER INFO and CLUSTER NODES show which"
            raise UnavailableError(msg)
        self._begins, self._servers = [begin for begin, _ in found], [server for _, server in found]
        self._known = self._servers
        self._moved = {}


def _node(asked: Server, node: list[Any]) -> Server:
    """Return where a node is; one that does not know its own address is where it was asked."""
    host = node[0].decode() if node[0] else ""
    return Server(host if host not in ("", "?") else asked.host, int(node[1]))
