"""Turns the content of the file and the environment into :class:`Settings`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.access.auth_settings import AskSettings, AuthSettings, TokenSettings
from app.config import wording
from app.config.backends.backend_settings import BackendSettings
from app.config.backends.url import kind
from app.config.deployment import direct_url, warnings
from app.config.diagnostics import ConfigError, Diagnostic, listed, quoted
from app.config.environment import CHANNELS_CONFIG, Environment
from app.config.last_good import LAST_GOOD
from app.config.model import Auth, ChannelPolicy, File, RateLimit
from app.config.model import Policy as ChannelRules
from app.config.options import OPTIONS
from app.config.schemas.files import Contents, SchemaFiles, hash_in
from app.config.schemas.named import named_schemas
from app.config.settings import Settings
from app.config.values.names import clashes
from app.config.yaml.document import Document
from app.config.yaml.syntax import MAX_BYTES
from app.core.channel import Channel, HistoryWindow, Registry
from app.core.engines import ENGINES
from app.core.limits import rates
from app.core.ports import Limits
from app.core.rights.policy import Access, Claim, Policy
from app.core.rights.token import Verb
from app.core.schema import Schema


def load(environment: Environment) -> Settings:
    """Read the file that ``CHANNELS_CONFIG`` names; raise :class:`ConfigError` with every mistake in it.

    If the file or one of its schema files is broken, a server that has a last good config loads that instead; the
    watcher reports the mistakes.
    The backend remains the one that the server started with.
    """
    try:
        content = read(environment.channels_config)
        files = SchemaFiles(environment.channels_config.parent)
        settings = parse(content, environment, files)
    except ConfigError:
        last_good = LAST_GOOD.recall()
        if last_good is None:
            raise
        content, contents = last_good
        files = SchemaFiles(environment.channels_config.parent, contents)
        settings = parse(content, environment, files)
    else:
        LAST_GOOD.keep(content, files.contents)
    settings = LAST_GOOD.over_one_backend(settings)
    return settings.served_by(settings.backend.engine)


def line_of(environment: Environment, channel: str, key: str) -> str:
    """Return the place of the value that a channel has for a key, as ``channels.yaml:12 channels.news.publish``."""
    document = Document(read(environment.channels_config), str(environment.channels_config), environment.variables)
    data = document.data if isinstance(document.data, dict) else {}
    for location in (("channels", channel, key), ("defaults", key)):
        section: Any = data
        for name in location[:-1]:
            section = (section or {}).get(name)
        if isinstance(section, dict) and key in section:
            document.add(location, "")
            found = document.diagnostics[-1]
            return f"{found.file}:{found.line} {found.key_path}"
    return f"{environment.channels_config} (the default of {key!r})"


def read(path: Path) -> bytes:
    """Return the file's content, cut off if it is larger than any valid file; raise :class:`ConfigError`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    message = f"cannot be read ({reason}){_whence(path)}"
    raise ConfigError([Diagnostic(str(path), 0, 0, "", message)])


def _whence(path: Path) -> str:
    """Return who named the file, unless it was the command's own argument."""
    if path == CHANNELS_CONFIG:
        return ": create it, or name another file in CHANNELS_CONFIG or with --config"
    name = OPTIONS.name("CHANNELS_CONFIG")
    return "" if name == "FILE" else f": {name} names the file"


def digest(content: bytes, contents: Contents | None = None) -> str:
    """Return 12 hexadecimal digits that identify the content, and that of its schema files."""
    return hashlib.sha256(content + hash_in(contents or {})).hexdigest()[:12]


def parse(content: bytes, environment: Environment, files: SchemaFiles | None = None) -> Settings:
    """Turn content into settings; raise :class:`ConfigError` with every mistake in it.

    ``files`` has the schema files that were read before, and takes note of those that the content names.
    """
    files = files or SchemaFiles(environment.channels_config.parent)
    document = Document(content, str(environment.channels_config), environment.variables)
    file = _validate(document)
    schemas = named_schemas(document, files)
    if file is None or document.diagnostics:
        # In the order of lines, not of checks.
        raise ConfigError(sorted(document.diagnostics, key=lambda diagnostic: (diagnostic.line, diagnostic.column)))
    registry, auth = _registry(file, schemas), _auth(file.auth)
    settings = Settings(
        path=environment.channels_config,
        digest=digest(content, files.contents),
        backend=_backend(file, environment),
        auth=auth,
        origins=file.origins,
        operators=file.operators,
        limits=Limits(**file.limits.model_dump()),
        console=file.console,
        registry=registry,
        schemas=tuple(files.contents),
    )
    return replace(settings, warnings=warnings(environment, settings, document.variables))


def _backend(file: File, environment: Environment) -> BackendSettings:
    return BackendSettings(
        file.backend,
        direct_url(environment, file.backend),
        file.postgres.inline,
        file.redis.min_replicas,
        **file.kafka.model_dump(),
    )


def _validate(document: Document) -> File | None:
    file = None
    try:
        file = File.model_validate(document.data)
    except ValidationError as error:
        for finding in error.errors(include_url=False, include_input=False):
            wording.report(finding, document)
    _check_channels(document)
    if file is not None:
        is_auth_read = not any(diagnostic.key_path.startswith("auth") for diagnostic in document.diagnostics)
        _check_tokens(file, document)
        _check_history(file, document)
        if is_auth_read:
            _check_needs(file, document)
        _check_topics(file, document)
    return file


def _check_topics(file: File, document: Document) -> None:
    """Add a diagnostic for each channel that cannot be the topic that it names."""
    engine = ENGINES[kind(file.backend)]
    for name, policy in file.channels.items():
        if policy.topic is None:
            continue
        if not engine.reads_topics:
            able = listed(f"{other.schemes[0]}://" for other in ENGINES.values() if other.reads_topics)
            document.add(
                ("channels", name, "topic"),
                f"topic needs a backend with topics that others write, such as {able}; remove it, or change 'backend'",
            )
        elif "{" in name:
            document.add(("channels", name, "topic"), "a topic is one channel, not a family: name a channel without {}")


def _check_history(file: File, document: Document) -> None:
    """Add a diagnostic for each history that the backend cannot keep."""
    engine = ENGINES[kind(file.backend)]
    if engine.has_positions:
        return
    message = f"{engine.name}:// keeps no history: remove 'size' or write 0, or choose a backend that keeps messages"
    policies: dict[tuple[str, ...], ChannelRules] = {("defaults",): file.defaults}
    policies |= {("channels", name): policy for name, policy in file.channels.items()}
    for place, policy in policies.items():
        if "size" in policy.history.model_fields_set and policy.history.size:
            document.add((*place, "history", "size"), message)


def _check_needs(file: File, document: Document) -> None:
    """Add a diagnostic for each policy that needs what ``auth`` does not have."""
    auth = _auth(file.auth)
    for name, policy in file.channels.items():
        for verb in (Verb.PUBLISH, Verb.SUBSCRIBE):
            inherited = verb not in policy.model_fields_set
            place = ("defaults", verb) if inherited else ("channels", name, verb)
            found: Policy = getattr(file.defaults if inherited else policy, verb)
            if message := _need(found, auth, is_family="{" in name):
                document.add(place, message)


def _need(policy: Policy, auth: AuthSettings, *, is_family: bool) -> str | None:
    """Return what a policy needs and does not have; None if it has all."""
    if policy.takes_tokens and auth.tokens is None:
        return f"{policy} needs tokens: set auth.tokens.secret, or auth.tokens.jwks"
    if Access.ASK in policy and auth.ask is None:
        return "ask needs an application: set auth.ask.url"
    if not is_family and any(isinstance(entry, Claim) for entry in policy.entries):
        return f"{policy} needs a parameter to compare: declare a family such as user.{{id}}, or write token"
    return None


def _check_tokens(file: File, document: Document) -> None:
    """Add the diagnostics that concern several keys of ``auth`` together."""
    tokens = file.auth.tokens
    if tokens.jwks and not (tokens.issuer and tokens.audience):
        missing = "issuer" if not tokens.issuer else "audience"
        message = "jwks needs issuer and audience: the login signs tokens for other applications with the same keys"
        document.add(("auth", "tokens", missing if missing in tokens.model_fields_set else "jwks"), message)
    if tokens.cookie and "*" in file.origins:
        message = "a cookie is sent for any page that its browser shows: name your pages in 'origins', not \"*\""
        document.add(("auth", "tokens", "cookie"), message)


def _auth(auth: Auth) -> AuthSettings:
    tokens, ask = auth.tokens, auth.ask
    return AuthSettings(
        keys=tuple(key for key in auth.keys if key is not None),
        tokens=TokenSettings(
            secrets=tokens.secret,
            jwks=tokens.jwks,
            issuer=tokens.issuer,
            audience=tokens.audience,
            max_lifetime=tokens.max_lifetime,
            leeway=tokens.leeway,
            cookie=tokens.cookie,
            publish_claim=tokens.claims.publish or Verb.PUBLISH,
            subscribe_claim=tokens.claims.subscribe or Verb.SUBSCRIBE,
        )
        if tokens.secret or tokens.jwks
        else None,
        ask=AskSettings(ask.url, ask.forward, ask.timeout) if ask.url else None,
    )


def _check_channels(document: Document) -> None:
    """Add the diagnostics that concern several channels together."""
    channels = document.data.get("channels") if isinstance(document.data, dict) else None
    if channels == {}:
        document.add(("channels",), "no channels are declared: declare at least one")
    if isinstance(channels, dict):
        for name, earlier in clashes(channels).items():
            message = f"this family covers the same names as {quoted(earlier)}: keep one of them"
            document.add(("channels", name), message, at_key=True)


def _registry(file: File, schemas: Mapping[str, Schema]) -> Registry:
    channels = tuple(
        _channel(name, _inherit(policy, file.defaults), schemas.get(policy.schema_ or ""), policy.topic)
        for name, policy in file.channels.items()
    )
    return Registry(channels, _channel("defaults", file.defaults))


def _inherit(policy: ChannelPolicy, defaults: ChannelRules) -> ChannelRules:
    own = {key: getattr(policy, key) for key in policy.model_fields_set if key in ChannelRules.model_fields}
    if "history" in own:
        given = {key: getattr(policy.history, key) for key in policy.history.model_fields_set}
        own["history"] = defaults.history.model_copy(update=given)
    return defaults.model_copy(update=own)


def _channel(name: str, policy: ChannelRules, schema: Schema | None = None, topic: str | None = None) -> Channel:
    return Channel(
        name=name,
        publish=policy.publish,
        subscribe=policy.subscribe,
        client_publish=policy.client_publish,
        history=HistoryWindow(size=policy.history.size, ttl=policy.history.ttl),
        max_message_size=policy.max_message_size,
        slow_subscriber=policy.slow_subscriber,
        schema=schema,
        rate_limit=_rate_limit(policy.rate_limit),
        topic=topic,
    )


def _rate_limit(given: RateLimit | None) -> rates.RateLimit | None:
    if given is None or (given.per_identity is None and given.per_channel is None):
        return None
    return rates.RateLimit(_rate(given.per_identity, given.burst), _rate(given.per_channel))


def _rate(given: tuple[int, int] | None, burst: int | None = None) -> rates.Rate | None:
    if given is None:
        return None
    count, seconds = given
    return rates.Rate(count, seconds, burst or count)
