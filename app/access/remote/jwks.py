"""The public keys of a login: its JSON Web Key Set, asked for at its URL and kept."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from app.access.remote import jwk
from app.access.remote.outbound import FailedError, Outbound, Reply
from app.core import turns
from app.core.errors import UnavailableError
from app.core.ports import UNMETERED, Meter

if TYPE_CHECKING:
    from jwt import PyJWK

TIMEOUT = 3.0
"""Seconds that one request may take, with its answer."""

UNKNOWN_SECONDS = 10.0
"""At least this long after one request, a key that is not known causes another."""

RETRY_SECONDS = 5.0
"""This long after a request that failed, :meth:`Jwks.run` makes another."""

REFRESH_SECONDS = 300.0
"""This long after one that succeeded: a key that the login has taken away is good for so long at most."""

_TICK_SECONDS = 1.0

_log = structlog.get_logger("app.access")


class Jwks:
    """The keys of one issuer at one URL. No other issuer's tokens meet them: make another for another.

    ``clock`` returns monotonic seconds.
    """

    def __init__(self, url: str, meter: Meter = UNMETERED, clock: Callable[[], float] = time.monotonic) -> None:
        self._outbound = Outbound(url, timeout=TIMEOUT, at_once=1)
        self._meter, self._clock = meter, clock
        self._keys: jwk.Keys = {}
        self._kids: frozenset[str | None] = frozenset()
        self._asked = self._due = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self.problem: str | None = "the keys of auth.tokens.jwks have not arrived yet"
        """Why the keys may be missing or old; None if the last request succeeded."""
        self.generation = 0
        """Differs after each change of the keys: what they have verified before may be signed by one that is gone."""

    def find(self, kid: str | None, alg: str) -> PyJWK | None:
        """Return the key that may verify a token with this ``kid`` and ``alg``; None if it is not known now.

        Without a ``kid`` it is the only key that fits the algorithm.
        """
        return self._keys.get((kid, alg))

    def is_stale_for(self, kid: str | None) -> bool:
        """Whether :meth:`refresh` can tell more about this key than is known now."""
        return kid not in self._kids and (self.problem is not None or self._may_ask())

    async def refresh(self, kid: str | None) -> None:
        """Ask for the keys because this one is not known, at most once in :data:`UNKNOWN_SECONDS`.

        Raises :class:`UnavailableError` if the key is not known because the keys could not be had.
        """
        if kid in self._kids:
            return
        if self._asking is not None or self._may_ask():
            await self._ask()
        if kid not in self._kids and self.problem is not None:
            detail = "the keys that verify tokens cannot be had now: try again"
            raise UnavailableError(detail, retry_after=max(1, math.ceil(self._due - self._clock())))

    async def run(self) -> None:
        """Ask for the keys now, again soon after each failure, and now and then; never returns."""
        while True:
            if self._clock() >= self._due:
                await self._ask()
            await asyncio.sleep(_TICK_SECONDS)

    async def aclose(self) -> None:
        """Stop asking, and close the connection."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._outbound.aclose()

    def _may_ask(self) -> bool:
        return self._clock() - self._asked >= UNKNOWN_SECONDS

    async def _ask(self) -> None:
        """Make a request, or wait for the one that is under way. Cancelling one who waits does not cancel it."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._update())
        await asyncio.wait({self._asking})

    async def _update(self) -> None:
        self._asked = self._clock()
        try:
            keys = await turns.run(jwk.read(_listed(await self._outbound.send("GET"))))
        except FailedError as error:
            self._note(f"auth.tokens.jwks: {error}")
        else:
            self._take(keys)
            # Without keys nothing can be verified, but they may be published soon.
            self._note(None if keys else "auth.tokens.jwks: none of its keys can be used")
        finally:
            self._asking = None

    def _take(self, keys: jwk.Keys) -> None:
        """Replace the keys: those that the document no longer has are gone."""
        if {place: key.key for place, key in keys.items()} != {place: key.key for place, key in self._keys.items()}:
            self.generation += 1
        self._keys, self._kids = keys, frozenset(kid for kid, _ in keys)

    def _note(self, problem: str | None) -> None:
        if problem is not None:
            self._meter.failed("jwks")
        if problem != self.problem:
            if problem is None:
                _log.info("jwks_fetched", kids=sorted(kid for kid in self._kids if kid is not None))
            else:
                _log.warning("jwks_failed", reason=problem)
        self.problem = problem
        self._due = self._asked + (REFRESH_SECONDS if problem is None else RETRY_SECONDS)


def _listed(reply: Reply) -> list[object]:
    """Return the keys that an answer lists. Raises :class:`FailedError`."""
    document = reply.json()
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        msg = "its answer is no JSON Web Key Set"
        raise FailedError(msg)
    return keys
