"""The shape of the YAML file: every key with its meaning, default and limits.

The docstring under a key is its description in the JSON Schema that editors show.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from app.config.values import names, units
from app.config.values.authorisation import ClaimName, CookieName, Keys, Leeway, Lifetime, PolicyValue, Secrets, Text
from app.config.values.bounds import Bodies, Burst, Count, CountOrNone, OrText, RateText, Replicas, Time
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
    Sasl,
    SaslMechanism,
    Slow,
    Topic,
    refuse,
)
from app.config.values.urls import HeaderName, Timeout, Url
from app.core.channel import SlowSubscriber
from app.core.ports import Limits as DefaultLimits
from app.core.rights.policy import ANYONE, KEY

_LIMITS = DefaultLimits()


class Section(BaseModel):
    """One mapping of the file. An empty section counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

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


def _of_rates(schema: dict[str, Any]) -> None:
    for key in schema["properties"].values():
        key.pop("default")  # a key that is there has a value
    schema["dependentRequired"] = {"burst": ["per_identity"]}


class RateLimit(Section):
    """How often messages may be published to a channel, by HTTP and by sockets; each worker counts by itself."""

    model_config = ConfigDict(json_schema_extra=_of_rates)

    per_identity: RateText = None
    """How often one publisher may publish: 10/s, 600/m or 3600/h. A family counts as one channel."""

    per_channel: RateText = None
    """How often all publishers together may publish: 1000/s. Each channel of a family counts by itself."""

    burst: Burst = None
    """How many messages one publisher may publish at once, 1 to 1000000; left out, as many as per_identity names."""

    @model_validator(mode="after")
    def _check_burst(self) -> Self:
        if self.burst is not None and self.per_identity is None:
            refuse("burst is for per_identity: add it, or remove burst")
        return self


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

    rate_limit: Annotated[RateLimit | None, *OrText] = None
    """How often messages may be published: 10/s for each publisher, or a mapping; empty for no limit."""


def _without_defaults(schema: dict[str, Any]) -> None:
    # A channel takes what it leaves out from `defaults`, not from the code's own defaults.
    for key in schema["properties"].values():
        key.pop("default", None)


class ChannelPolicy(Policy):
    """One channel or family of channels; it takes what it leaves out from `defaults`."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    schema_: MessageSchema = Field(default=None, alias="schema")
    """The JSON Schema (2020-12) that messages must fit: a file beside channels.yaml, such as schemas/order.json."""

    topic: Topic = None
    """The topic in Kafka that this channel is, if others write it; left out, a topic of the channel's own."""


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


class Kafka(Section):
    """How Kafka's brokers are reached."""

    tls: Boolean = False
    """Whether to use TLS; kafkas:// does so, too."""

    ca: Text = None
    """The file with the certificate of the brokers' authority; left out, those that the system trusts."""

    sasl: Sasl = SaslMechanism.PLAIN
    """How the user of the URL logs in: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""


class Redis(Section):
    """How streams of Redis are written."""

    min_replicas: Replicas = 0
    """How many replicas must have a message before it counts as stored, 0 to 100."""


class Limits(Section):
    """How much clients may take of one worker."""

    connections: Count = _LIMITS.connections
    """The most sockets, event streams and long-polls of a worker, 1 to 1000000; one more is 503."""

    connections_per_address: CountOrNone = _LIMITS.connections_per_address
    """The most of them from one client address, 1 to 1000000; one more is 429. Empty for no limit."""

    handshakes: Count = _LIMITS.handshakes
    """The most connections of a worker that have not sent a whole request head; the oldest of more is closed."""

    subscriptions: Count = _LIMITS.subscriptions
    """The most subscriptions of one connection on /ws, 1 to 1000000; one more is an error with status 429."""

    frames: Count = _LIMITS.frames
    """The most frames that one socket may send in a second, 1 to 1000000, pings included; more closes it with 1008."""

    bodies: Bodies = _LIMITS.bodies
    """The most bytes of incomplete bodies and messages of all clients together, from 16MiB; more is 503."""

    request_time: Time = int(_LIMITS.request_time)
    """How long a request or a socket's message may take to arrive, 1s to 1h, and 1 s more for each 16 KiB of it."""

    answer_time: Time = int(_LIMITS.answer_time)
    """How long an answer may take to be read, 1s to 1h, and 1 s more for each 16 KiB of it."""


class File(Section):
    """The whole of channels.yaml."""

    backend: BackendUrl = Field(default="memory://", repr=False)
    """Where messages are kept and how workers reach each other, as a URL such as postgres:// or memory://."""

    postgres: Postgres = Field(default_factory=Postgres)
    """How the Postgres backend works; other backends ignore it."""

    redis: Redis = Field(default_factory=Redis)
    """How streams of Redis are written; other backends ignore it."""
    kafka: Kafka = Field(default_factory=Kafka)
    """How Kafka's brokers are reached; other backends ignore it."""

    auth: Auth = Field(default_factory=Auth)
    """How publishers and subscribers prove who they are."""

    origins: tuple[Origin, ...] = ("*",)
    """Web origins whose pages may use the server: "*" for any, "null", or scheme://host[:port]; host may be *.host."""

    operators: Operators = None
    """Who sees channels, metrics and documents: anyone or key; left out, callers on loopback, else holders of a key."""

    limits: Limits = Field(default_factory=Limits)
    """How much clients may take of one worker."""

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


_ANY = None
"""In a path, any name."""

_SECTIONS: dict[tuple[str | None, ...], type[Section]] = {
    ("auth",): Auth,
    ("auth", "tokens"): AuthTokens,
    ("auth", "tokens", "claims"): GrantClaims,
    ("auth", "ask"): Ask,
    ("postgres",): Postgres,
    ("redis",): Redis,
    ("kafka",): Kafka,
    ("limits",): Limits,
    ("defaults",): Policy,
    ("defaults", "history"): History,
    ("defaults", "rate_limit"): RateLimit,
    ("channels", _ANY): ChannelPolicy,
    ("channels", _ANY, "history"): History,
    ("channels", _ANY, "rate_limit"): RateLimit,
}
"""The sections of the file, by their paths."""


def known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section at ``location``."""
    path = tuple(_ANY if at == 1 and location[0] == "channels" else part for at, part in enumerate(location))
    section = _SECTIONS.get(path, File)  # type: ignore[arg-type]  # a place in a list is in none of them
    return [field.alias or name for name, field in section.model_fields.items()]
