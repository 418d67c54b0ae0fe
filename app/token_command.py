"""``token``: mints tokens for development and scripts, and explains what a token may do."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from app.access.auth_settings import TokenSettings
from app.access.refusal import TokenError
from app.access.remote.jwks import Jwks
from app.access.tokens import Tokens, digest_of, sign
from app.config import ConfigError, Diagnostic, Environment, Settings, line_of, load
from app.config.values.units import DURATIONS, amount, write_duration
from app.core.channel import Channel, Registry
from app.core.errors import AbideError, UnavailableError
from app.core.rights.policy import Identity, Subject
from app.core.rights.token import Token, Verb


class TokenCommandError(Exception):
    """The command cannot do what it was asked for, and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--sub", help="the subject: whom the token is about")
    parser.add_argument("--publish", action="append", default=[], metavar="CHANNEL", help="grant it; may be repeated")
    parser.add_argument("--subscribe", action="append", default=[], metavar="CHANNEL", help="grant it; may be repeated")
    parser.add_argument("--ttl", default="1h", metavar="TIME", help="how long it is good: 30s, 15m, 24h (default: 1h)")
    parser.add_argument(
        "--claim", action="append", default=[], metavar="NAME=JSON", help="another claim; may be repeated"
    )
    parser.add_argument(
        "--explain",
        nargs=2,
        metavar=("TOKEN", "CHANNEL"),
        help="say what this token may do on this channel, and why; TOKEN may be - for stdin",
    )


def run(options: argparse.Namespace) -> tuple[str, int]:
    """Return what the command prints, and its exit code; raise :class:`ConfigError` and :class:`TokenCommandError`."""
    environment = Environment.read()
    settings = load(environment)
    tokens = settings.auth.tokens
    if tokens is None:
        message = "tokens are not configured: set auth.tokens.secret, as from: openssl rand -hex 32"
        raise ConfigError([Diagnostic(str(settings.path), 0, 0, "auth.tokens", message)])
    if options.explain is None:
        minted = _mint(options, tokens)
        grants = sorted({*options.publish, *options.subscribe})
        sys.stderr.writelines(f"warning: {text}\n" for text in _useless(grants, settings.registry))
        return minted, 0
    given, name = options.explain
    raw = sys.stdin.read().strip() if given == "-" else given
    lines, is_admitted = asyncio.run(_explain(raw, name, environment, settings, tokens))
    return "\n".join(lines), 0 if is_admitted else 1


def _mint(options: argparse.Namespace, settings: TokenSettings) -> str:
    if not settings.secrets:
        _refuse("auth.tokens has no secret to sign with: your login signs tokens (auth.tokens.jwks)")
    ttl = amount(options.ttl, DURATIONS)
    if not ttl or ttl > settings.max_lifetime:
        _refuse(f"--ttl must be from 1s to {write_duration(settings.max_lifetime)} (auth.tokens.max_lifetime)")
    now = int(time.time())
    claims: dict[str, Any] = dict(map(_claim, options.claim))
    claims |= {"iat": now, "exp": now + ttl}
    for name, value in (("sub", options.sub), ("iss", settings.issuer), ("aud", settings.audience)):
        if value is not None:
            claims[name] = value
    for name, grants in ((settings.publish_claim, options.publish), (settings.subscribe_claim, options.subscribe)):
        if grants:
            claims[name] = grants
    raw = sign(settings, claims)
    try:
        Tokens(settings).verify(raw, digest_of(raw))
    except TokenError as error:
        _refuse(f"the token would not be good: {error}")
    return raw


def _useless(grants: Iterable[str], registry: Registry) -> Iterator[str]:
    """Return a sentence for each grant that fits no declared channel."""
    families = {channel.name: channel.wildcard for channel in registry.channels if channel.wildcard is not None}
    for grant in grants:
        if grant in families:
            yield f"the grant {grant!r} fits no channel: write {families[grant]!r}"
        elif grant not in families.values() and registry.get(grant) is None:
            yield f"the grant {grant!r} fits no channel: declare it in channels.yaml"


def _claim(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        _refuse("--claim needs NAME=JSON, as in --claim 'org_id=\"7\"'" + ("" if equals else ": '=' is missing"))


async def _explain(
    raw: str, name: str, environment: Environment, settings: Settings, configured: TokenSettings
) -> tuple[list[str], bool]:
    """Return what a token may do on a channel, and whether that is anything."""
    jwks = None if configured.jwks is None else Jwks(configured.jwks)
    tokens = Tokens(configured, jwks)
    try:
        token = await tokens.verify_later(raw, digest_of(raw))
    except TokenError as error:
        return [f"the token is not good: {error}"], False
    except UnavailableError as error:
        _refuse(str(error))
    finally:
        if jwks is not None:
            await jwks.aclose()
    lines = [f"the token is good: {', '.join(_facts(token))} (what was taken back is not looked at here)"]
    try:
        channel = settings.registry.find(name)
    except AbideError as error:
        return [*lines, str(error)], False
    identity = Identity(token=token)
    found = [_judged(channel, name, identity, verb, environment) for verb in (Verb.SUBSCRIBE, Verb.PUBLISH)]
    return [*lines, *(line for line, _ in found)], any(is_admitted for _, is_admitted in found)


def _facts(token: Token) -> Iterator[str]:
    yield "no sub" if token.sub is None else f"sub {token.sub!r}"
    yield f"expires in {write_duration(max(0, int(token.claims['exp'] - time.time())))}"
    for verb, grants in (("subscribe", token.rights.subscribe), ("publish", token.rights.publish)):
        if grants:
            yield f"grants to {verb}: {', '.join(sorted(grants))}"


def _judged(channel: Channel, name: str, identity: Identity, verb: Verb, environment: Environment) -> tuple[str, bool]:
    """Return a line about one verb, and whether the token is admitted."""
    policy = channel.publish if verb is Verb.PUBLISH else channel.subscribe
    subject = Subject(verb, name, channel.name, channel.wildcard, channel.parameter(name))
    place = line_of(environment, channel.name, verb)
    entry = policy.admitting(identity, subject)
    if entry is not None:
        return f"{verb} {name}: admitted by {place} ({entry})", True
    if policy.asks:
        return f"{verb} {name}: your application decides, by {place} (ask)", True
    return f"{verb} {name}: refused by {place}: {policy.refusal(identity, subject)}", False


def _refuse(message: str) -> NoReturn:
    raise TokenCommandError(message)
