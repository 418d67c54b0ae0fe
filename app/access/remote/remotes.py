"""The servers that are asked under the settings in force: they outlive a reload that does not change them."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from app.access.auth_settings import AuthSettings
from app.access.remote.ask import Asker
from app.access.remote.jwks import Jwks
from app.core.ports import Meter


class Remote(NamedTuple):
    """What one ``auth`` asks."""

    jwks: Jwks | None = None
    asker: Asker | None = None


class Remotes:
    """Makes what settings ask, runs it, and closes what the settings before asked."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._used = Remote()
        self._auth = AuthSettings()
        self._fetching: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str | None:
        """Why tokens may be refused, for readiness; None if nothing is wrong."""
        return None if self._used.jwks is None else self._used.jwks.problem

    def of(self, auth: AuthSettings) -> Remote:
        """Return what these settings ask; nothing is asked before :meth:`use`, unless it is used already."""
        return Remote(self._jwks_of(auth), self._asker_of(auth))

    async def use(self, remote: Remote, auth: AuthSettings) -> None:
        """Ask these from now on; ``remote`` is what :meth:`of` has returned."""
        before, self._used, self._auth = self._used, remote, auth
        if before.jwks is not remote.jwks:
            if self._fetching is not None:
                self._fetching.cancel()
            self._fetching = None
            if remote.jwks is not None:
                self._fetching = asyncio.create_task(remote.jwks.run(), name="jwks")
            if before.jwks is not None:
                await before.jwks.aclose()
        if before.asker is not None and before.asker is not remote.asker:
            await before.asker.aclose()

    async def aclose(self) -> None:
        """Ask nothing more."""
        await self.use(Remote(), AuthSettings())

    def _jwks_of(self, auth: AuthSettings) -> Jwks | None:
        url = None if auth.tokens is None else auth.tokens.jwks
        if url is None:
            return None
        used = None if self._auth.tokens is None else self._auth.tokens.jwks
        return self._used.jwks if url == used else Jwks(url, self._meter)

    def _asker_of(self, auth: AuthSettings) -> Asker | None:
        if auth.ask is None:
            return None
        return self._used.asker if auth.ask == self._auth.ask else Asker(auth.ask, self._meter)
