"""The recipes of docs/access/logins.md, held against tokens as each provider documents them.

The file is the one on the page. Only where the keys and the application are is replaced by servers of our own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from app.access.remote.ask import Asker
from app.access.remote.jwks import Jwks
from app.access.tokens import Tokens
from app.config import Environment, Settings
from app.config.load import parse
from app.core.errors import ForbiddenError, UnauthorisedError
from app.web.edge.auth import Authenticator
from app.web.edge.caller import see
from tests.support.login import public, sign
from tests.support.processes import ROOT
from tests.support.site import Request, Site, reply

PAGE = (ROOT / "docs/access/logins.md").read_text(encoding="utf-8")
SESSION = "A FastAPI, Django or Rails session"
MOST_LINES = 6

UUID = "f1c4f64e-2c0c-4cda-8c9f-9f3f8f3a2b0e"


class Provider(NamedTuple):
    """A token as a provider documents it, and the channels that its recipe opens to it."""

    algorithm: str
    lifetime: int
    claims: dict[str, Any]
    """Without the times."""
    admitted: tuple[str, ...]
    refused: tuple[str, ...]


PROVIDERS = {
    # https://auth0.com/docs/secure/tokens/access-tokens/access-token-profiles
    "Auth0": Provider(
        "RS256",
        86_400,
        {
            "iss": "https://example.eu.auth0.com/",
            "sub": "auth0|65f0c2b1a9d8e7f6a5b4c3d2",
            "aud": ["https://realtime.example.com", "https://example.eu.auth0.com/userinfo"],
            "azp": "my_client_id",
            "scope": "openid profile email",
            "org_id": "org_9ybsU1dN2dKfDkBi",
        },
        ("user.auth0|65f0c2b1a9d8e7f6a5b4c3d2", "org.org_9ybsU1dN2dKfDkBi"),
        ("user.auth0|65f0c2b1a9d8e7f6a5b4c3d3", "user.google-oauth2|65f0c2b1a9d8e7f6a5b4c3d2", "org.org_other"),
    ),
    # https://clerk.com/docs/guides/sessions/session-tokens, and the claims of the page's template
    "Clerk": Provider(
        "RS256",
        60,
        {
            "azp": "https://example.com",
            "fva": [7, -1],
            "iss": "https://clerk.example.com",
            "jti": "a1b2c3d4e5f6a7b8c9d0",
            "sid": "sess_2Yx9Qh3mFzVwC1o0T5aB8dKr4Lp",
            "sts": "active",
            "sub": "user_2Yx9QcV1uOaTz5n8sLw3eRk7JbD",
            "v": 2,
            "aud": "abide",
            "org_id": "org_2Yx9Qd0mBf6rHs1vXk4tNc8PzGa",
        },
        ("user.user_2Yx9QcV1uOaTz5n8sLw3eRk7JbD", "org.org_2Yx9Qd0mBf6rHs1vXk4tNc8PzGa"),
        ("user.user_2Yx9QcV1uOaTz5n8sLw3eRk7Jbd", "user.user_", "org.org_"),
    ),
    # https://supabase.com/docs/guides/auth/jwt-fields
    "Supabase": Provider(
        "ES256",
        3600,
        {
            "iss": "https://project-ref.supabase.co/auth/v1",
            "aud": "authenticated",
            "sub": UUID,
            "role": "authenticated",
            "aal": "aal1",
            "session_id": "4b938a09-5372-4177-a314-cfa292099ea2",
            "email": "ada@example.com",
            "phone": "",
            "is_anonymous": False,
            "amr": [{"method": "password", "timestamp": 1715686621}],
            "app_metadata": {"provider": "email", "providers": ["email"], "org_id": "acme"},
            "user_metadata": {"org_id": "other"},
        },
        (f"user.{UUID}", "org.acme"),
        ("user.4b938a09-5372-4177-a314-cfa292099ea2", "org.other", "org.email"),
    ),
    # https://www.keycloak.org/securing-apps/oidc-layers
    "Keycloak": Provider(
        "RS256",
        300,
        {
            "iss": "https://login.example.com/realms/example",
            "aud": ["abide", "account"],
            "sub": UUID,
            "typ": "Bearer",
            "azp": "my-client",
            "jti": "onrtac:8c5b2f0e-8f0a-4f43-9d7c-0f7c36a0a5b1",
            "sid": "4c0a3a8a-3a47-4f2f-8e89-9e5f9b0a0a0a",
            "acr": "1",
            "allowed-origins": ["https://app.example.com"],
            "realm_access": {"roles": ["default-roles-example", "operator"]},
            "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
            "scope": "openid profile email",
            "email_verified": True,
            "preferred_username": "ada",
        },
        (f"user.{UUID}", "role.operator", "role.default-roles-example"),
        ("user.ada", "role.manage-account", "role.oper"),
    ),
    # https://firebase.google.com/docs/auth/admin/verify-id-tokens
    "Firebase": Provider(
        "RS256",
        3600,
        {
            "iss": "https://securetoken.google.com/project-id",
            "aud": "project-id",
            "auth_time": 1715686621,
            "user_id": "xJ3kP0qLm8NzRtVw2yBcDfGh5sA1",
            "sub": "xJ3kP0qLm8NzRtVw2yBcDfGh5sA1",
            "email": "ada@example.com",
            "email_verified": True,
            "firebase": {"identities": {"email": ["ada@example.com"]}, "sign_in_provider": "password"},
            "org_id": "acme",
        },
        ("user.xJ3kP0qLm8NzRtVw2yBcDfGh5sA1", "org.acme"),
        ("user.xj3kp0qlm8nzrtvw2ybcdfgh5sa1", "org.project-id"),
    ),
}


def recipes() -> Iterator[tuple[str, str]]:
    """Yield the heading and the YAML of each recipe."""
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        for text in re.findall(r"^```yaml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            yield section.partition("\n")[0], text


RECIPES = dict(recipes())


def settings_of(name: str) -> Settings:
    return parse(RECIPES[name].encode(), Environment(channels_config=Path("channels.yaml")))


class Door:
    """The recipe in force: its policies, its keys and its application, from servers of our own."""

    def __init__(self, name: str) -> None:
        self.settings = settings_of(name)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        auth, ask, tokens = self.settings.auth, None, None
        if auth.tokens is not None:
            jwks = Jwks((await self._stack.enter_async_context(Site(_keys))).url())
            self._stack.push_async_callback(jwks.aclose)
            tokens = Tokens(auth.tokens, jwks)
        if auth.ask is not None:
            site = await self._stack.enter_async_context(Site(_decide))
            asker = Asker(replace(auth.ask, url=site.url("/realtime/auth"), timeout=20))
            self._stack.push_async_callback(asker.aclose)
            ask = asker.ask
        self._authenticator = Authenticator(auth, self.settings.origins, tokens=tokens, ask=ask)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def subscribe(self, channel: str, **headers: str) -> str | None:
        """Ask to subscribe; return the subject that was admitted. Raises the refusal."""
        identity = await self._authenticator.identify(see(headers, "192.0.2.1"))
        question = self.settings.registry.find(channel).check_subscribe(channel, identity)
        return (await self._authenticator.admitted(question, identity)).subject


def _keys(_: Request) -> bytes:
    """Answer as logins do: with the keys of today and yesterday, and what is not for signatures."""
    keys = [
        public(algorithm, name, kid=f"{algorithm}{name}") for algorithm in ("RS256", "ES256") for name in ("", "old")
    ]
    return reply({"keys": [*keys, public("RS256", "enc", kid="enc", use="enc", alg="RSA-OAEP")]})


def _decide(request: Request) -> bytes:
    """Answer as an application with sessions does."""
    question = json.loads(request.body)
    if request.values("cookie") != ["session=ada"]:
        return reply({}, "401 Unauthorized")
    if question["parameter"] != "7":
        return reply({}, "403 Forbidden")
    return reply({"sub": "ada", "until": time.time() + 60})


def token(provider: Provider, *, name: str = "", **claims: object) -> str:
    """Return a token of the documented form; a claim that is None is left out."""
    now = int(time.time())
    merged = provider.claims | {"iat": now, "exp": now + provider.lifetime} | claims
    kept = {claim: value for claim, value in merged.items() if value is not None}
    return sign(kept, provider.algorithm, f"{provider.algorithm}{name}", name)


def bearer(raw: str) -> dict[str, str]:
    return {"authorization": f"Bearer {raw}"}


def test_every_recipe_is_short_and_held_against_a_token() -> None:
    """Page has a recipe for each provider and for sessions, of six lines of YAML at most."""
    assert list(RECIPES) == [*PROVIDERS, SESSION]
    assert {name: text for name, text in RECIPES.items() if len(text.splitlines()) > MOST_LINES} == {}


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_token_of_the_login_opens_its_channels_alone(name: str) -> None:
    """Token as the provider documents it is admitted to its own channels, and to no others."""
    provider = PROVIDERS[name]
    async with Door(name) as door:
        for channel in provider.admitted:
            assert await door.subscribe(channel, **bearer(token(provider))) == provider.claims["sub"]
        for channel in provider.refused:
            with pytest.raises(ForbiddenError):
                await door.subscribe(channel, **bearer(token(provider)))
        assert await door.subscribe(provider.admitted[0], **bearer(token(provider, name="old")))


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_token_that_is_not_for_this_server_opens_nothing(name: str) -> None:
    """Token of another issuer, for another audience, of another time or signed by another key is refused."""
    provider, now = PROVIDERS[name], time.time()
    others = [
        token(provider, iss=f"{provider.claims['iss']}x"),
        token(provider, iss=str(provider.claims["iss"]).rstrip("/") + "/" * (not provider.claims["iss"].endswith("/"))),
        token(provider, iss=None),
        token(provider, aud="another"),
        token(provider, aud=None),
        token(provider, exp=now - 3600),
        token(provider, exp=None),
        token(provider, nbf=now + 3600),
        sign(provider.claims | {"exp": now + 60}, provider.algorithm, provider.algorithm, "stranger"),
        sign(provider.claims | {"exp": now + 60}, provider.algorithm, "unknown"),
    ]
    async with Door(name) as door:
        for other in others:
            with pytest.raises(UnauthorisedError):
                await door.subscribe(provider.admitted[0], **bearer(other))
        with pytest.raises(UnauthorisedError):
            await door.subscribe(provider.admitted[0])


async def test_a_session_opens_what_its_application_says() -> None:
    """Session's cookie is admitted where the application admits it, and only from the application's pages."""
    mine = {"cookie": "session=ada", "origin": "https://app.example.com"}
    async with Door(SESSION) as door:
        assert await door.subscribe("doc.7", **mine) == "ada"
        for channel, headers in [
            ("doc.8", mine),
            ("doc.7", mine | {"cookie": "session=bob"}),
            ("doc.7", {"origin": mine["origin"]}),
            ("doc.7", mine | {"origin": "https://evil.example"}),
        ]:
            with pytest.raises(ForbiddenError):
                await door.subscribe(channel, **headers)
