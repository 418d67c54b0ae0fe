"""The shape of the YAML file: every key with its meaning, default and limits.

The docstring under a key is its description in the JSON Schema that editors show.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema

from app.config.values import names, units
from app.config.values.authorisation import ClaimName, CookieName, Keys, Leeway, Lifetime, PolicyValue, Secrets, Text
from app.config.values.fields import (
    BackendUrl,
    Boolean,
    HistorySize,
    HistoryTtl,
    MessageSchema,
    MessageSize,
    Name,
    Operators,
    Origin,
    Presence,
    RateLimit,
    Slow,
)
from app.config.values.urls import HeaderName, Timeout, Url
from app.core.channel import SlowSubscriber
from app.core.policy import ANYONE, KEY


class Section(BaseModel):
    """One mapping of the file. An empty section counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return {} if value is None else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Let editors accept null, too."""
        schema = handler(core_schema)
        handler.resolve_ref_schema(schema)["type"] = ["object", "null"]
        return schema


class History(Section):
    """How much of a channel is kept for subscribers that come back."""

    size: HistorySize = 1000
    """The most messages that are kept, 0 to 1000000; 0 keeps none."""

    ttl: HistoryTtl = 24 * units.DURATIONS["h"]
    """How long a message is kept, 1s to 365d: 30s, 15m, 24h, 7d, or whole seconds."""


class Policy(Section):
    """Who may do what on a channel, and what fits."""

    publish: PolicyValue = KEY
    """Who may publish: anyone, key, operators, token, {claim: PATH}, ask or nobody; or a list of them."""

    subscribe: PolicyValue = ANYONE
    """Who may subscribe: as for publish."""

    client_publish: Boolean = False
    """Whether subscribers may publish over their WebSocket; publish must allow it as well."""

    history: History = Field(default_factory=History)
    """How much is kept for subscribers that come back."""

    max_message_size: MessageSize = 64 * units.SIZES["KiB"]
    """The largest message in bytes of JSON, up to 1MiB: a number, or 500B, 64kB, 64KiB, 1MiB."""

    slow_subscriber: Slow = SlowSubscriber.CATCH_UP
    """What happens to subscribers that read too slowly: they catch up, are disconnected, or skip messages."""

    presence: Presence = False
    """Whether subscribers may see who else is subscribed. Only false is available yet."""

    rate_limit: RateLimit = None
    """How often one publisher may publish. Not yet available."""


def _without_defaults(schema: dict[str, Any]) -> None:
    # A channel takes what it leaves out from `defaults`, not from the code's own defaults.
    for key in schema["properties"].values():
        key.pop("default", None)


class ChannelPolicy(Policy):
    """One channel or family of channels; it takes what it leaves out from `defaults`."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    schema_: MessageSchema = Field(default=None, alias="schema")
    """Path of a JSON Schema that messages must match. Not yet available."""


class GrantClaims(Section):
    """Which claims of a token list the channels that it gives access to."""

    publish: ClaimName = None
    """The claim with the grants to publish; left out, "publish"."""

    subscribe: ClaimName = None
    """The claim with the grants to subscribe; left out, "subscribe"."""


class AuthTokens(Section):
    """How tokens (JSON Web Tokens) are verified, for policies with token or {claim: PATH}."""

    secret: Secrets = Field(default=(), repr=False)
    """Secrets of at least 32 bytes (HS256), one text or a list: any of them verifies, the first signs."""

    jwks: Url = None
    """The https URL of your login's public keys; issuer and audience must be set too."""

    issuer: Text = None
    """The `iss` that tokens must have; left out, any."""

    audience: Text = None
    """The `aud` that tokens must have, or have in their list; left out, any."""

    max_lifetime: Lifetime = 24 * units.DURATIONS["h"]
    """The longest time until a token's `exp`, 1s to 365d; what was taken back is remembered for as long."""

    leeway: Leeway = 30
    """How wrong the clock of the issuer may be, 0s to 5m."""

    cookie: CookieName = None
    """The cookie that carries the token, for pages; `origins` must then name your pages."""

    claims: GrantClaims = Field(default_factory=GrantClaims)
    """Which claims list the channels that a token gives access to."""


class Ask(Section):
    """The application that decides where a policy says ask."""

    url: Url = None
    """The URL that is sent a POST for each decision."""

    forward: tuple[HeaderName, ...] = ("cookie", "authorization")
    """Names of the caller's headers that the application gets."""

    timeout: Timeout = 2.0
    """How long an answer may take, 100ms to 30s: 500ms, 2s, or whole seconds."""


class Auth(Section):
    """How publishers and subscribers prove who they are."""

    keys: Keys = Field(default=(), repr=False)
    """The keys for policies with key: one text with commas, or a list; its entries may be {name, key, publish, …}."""

    tokens: AuthTokens = Field(default_factory=AuthTokens)
    """How tokens are verified, for policies with token or {claim: PATH}."""

    ask: Ask = Field(default_factory=Ask)
    """The application that decides where a policy says ask."""


class Postgres(Section):
    """How the Postgres backend works."""

    inline: Boolean = True
    """Whether small commits carry their messages inside NOTIFY (fast); false if other roles must not read them."""


class File(Section):
    """The whole of channels.yaml."""

    backend: BackendUrl = Field(default="memory://", repr=False)
    """Where messages are kept and how workers reach each other, as a URL: postgres:// or memory://."""

    postgres: Postgres = Field(default_factory=Postgres)
    """How the Postgres backend works; other backends ignore it."""

    auth: Auth = Field(default_factory=Auth)
    """How publishers and subscribers prove who they are."""

    origins: tuple[Origin, ...] = ("*",)
    """Web origins whose pages may use the server: "*" for any, "null", or scheme://host[:port]; host may be *.host."""

    operators: Operators = None
    """Who sees channels, metrics and documents: anyone or key; left out, callers on loopback, else holders of a key."""

    console: Boolean = True
    """Whether `/` serves the console, a page that shows the channels; client.js is served either way."""

    defaults: Policy = Field(default_factory=Policy)
    """What channels inherit, key by key."""

    channels: dict[Name, ChannelPolicy] = Field(
        json_schema_extra={
            "minProperties": 1,
            "propertyNames": {
                "type": "string",
                "anyOf": [{"pattern": names.PLAIN}, {"pattern": names.FAMILY}],
            },
        }
    )
    """The channels, by name. "chat.{room}" declares a family: one channel for each room."""


def known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section at ``location``."""
    section: type[Section] = File
    match location:
        case ("auth",):
            section = Auth
        case ("auth", "tokens"):
            section = AuthTokens
        case ("auth", "tokens", "claims"):
            section = GrantClaims
        case ("auth", "ask"):
            section = Ask
        case ("postgres",):
            section = Postgres
        case ("defaults",):
            section = Policy
        case ("defaults", "history") | ("channels", _, "history"):
            section = History
        case ("channels", _):
            section = ChannelPolicy
    return [field.alias or name for name, field in section.model_fields.items()]


class _Schema(GenerateJsonSchema):
    """Leaves out the titles that pydantic derives from the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002 — pydantic's signature
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the YAML file, for editors. It accepts exactly what the loader accepts."""
    schema = File.model_json_schema(schema_generator=_Schema)
    # Sections may be empty; the file may not.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "channels.yaml",
        "type": "object",
    }
