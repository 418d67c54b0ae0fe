"""Every key of the file, wrong in every way; each test says where the loader points and what it says."""

from __future__ import annotations

from collections.abc import Callable

import jsonschema_rs
import pytest
import yaml

from app.config import Diagnostic, json_schema

Problems = Callable[..., tuple[Diagnostic, ...]]
Expected = Callable[[str], tuple[str, tuple[int, int]]]
Row = tuple[str, str, str, bool]
Judge = Callable[[Row], None]

ROOT = "channels: {a: {}}\n"
DEFAULTS = "defaults:\n  "
CHANNEL = "channels:\n  news:\n    "
PLACES = ((DEFAULTS, "defaults", f"\n{ROOT}"), (CHANNEL, "channels.news", "\n"))

# key and marked value, path within the policy, a telling fragment, whether the JSON Schema sees it as well
POLICIES = "write anyone, key, operators, token, ask or nobody, {claim: PATH} or a list of them"

POLICY = [
    (
        "publish: ‸anyon",
        "publish",
        f'{POLICIES}, not "anyon" (did you mean anyone?)',
        True,
    ),
    (
        "publish:‸",
        "publish",
        f"{POLICIES}, not nothing",
        True,
    ),
    (
        "publish: ‸no",
        "publish",
        f"{POLICIES}, not false",
        True,
    ),
    ("publish: ‸3", "publish", "not 3", True),
    ("publish: ‸[]", "publish", "the list is empty: write anyone", True),
    ("publish: ‸[key, [token]]", "publish", "not a list", True),
    ("publish: ‸[key, key]", "publish", "an entry of the list is there twice", True),
    ("publish: ‸[key, anyone]", "publish", "anyone says all there is to say: write it alone", True),
    ("publish: ‸[nobody, key]", "publish", "nobody says all there is to say: write it alone", True),
    ("publish: ‸{key: 1}", "publish", "write {claim: PATH} with the name of a claim", True),
    ("publish: ‸{claim: [sub]}", "publish", "write {claim: PATH} with the name of a claim", True),
    ("publish: ‸{claim: sub, other: 1}", "publish", "write {claim: PATH} with the name of a claim", True),
    ("publish: ‸token", "publish", "token needs tokens: set auth.tokens.secret, or auth.tokens.jwks", False),
    ("publish: ‸{claim: sub}", "publish", "{claim: sub} needs tokens: set auth.tokens.secret", False),
    ("publish: ‸ask", "publish", "ask needs an application: set auth.ask.url", False),
    ("‸publisch: key", "publisch", "unknown key (did you mean publish?)", True),
    ("subscribe: ‸[key, token]", "subscribe", "key, token needs tokens", False),
    ("subscribe: ‸null", "subscribe", "not nothing", True),
    ("subscribe: ‸true", "subscribe", "not true", True),
    ("‸subscribed: anyone", "subscribed", "did you mean subscribe?", True),
    ("client_publish: ‸maybe", "client_publish", 'write true or false, not "maybe"', True),
    ("client_publish: ‸'true'", "client_publish", 'write true or false, not "true"', True),
    ("client_publish: ‸1", "client_publish", "write true or false, not 1", True),
    ("client_publish: ‸~", "client_publish", "not nothing", True),
    ("client_publish: ‸[true]", "client_publish", "not a list", True),
    ("‸client-publish: true", "client-publish", "did you mean client_publish?", True),
    ("history: ‸1000", "history", "must be a mapping", True),
    ("history: ‸[size, ttl]", "history", "must be a mapping", True),
    ("history: ‸all", "history", "must be a mapping", True),
    ("history: {‸sise: 1}", "history.sise", "did you mean size?", True),
    ("history: {size: ‸-1}", "history.size", "from 0 to 1000000, not -1", True),
    ("history: {size: ‸1000001}", "history.size", "from 0 to 1000000, not 1000001", True),
    ("history: {size: ‸many}", "history.size", "a number of messages such as 1000", True),
    ("history: {size: ‸1.5}", "history.size", 'not "1.5"', True),
    ("history: {size: ‸true}", "history.size", "not true", True),
    ("history: {size: ‸null}", "history.size", "not nothing", True),
    ("history: {size: ‸[1]}", "history.size", "not a list", True),
    ("history: {size: ‸010}", "history.size", 'not "010"', False),
    ("history: {ttl: ‸0}", "history.ttl", "from 1s to 365d, not 0", True),
    ("history: {ttl: ‸366d}", "history.ttl", 'from 1s to 365d, not "366d"', True),
    ("history: {ttl: ‸500ms}", "history.ttl", "whole seconds, or 30s, 15m, 24h or 7d", True),
    ("history: {ttl: ‸1.5h}", "history.ttl", 'not "1.5h"', True),
    ("history: {ttl: ‸24:00}", "history.ttl", 'not "24:00"', False),
    ("history: {ttl: ‸-5}", "history.ttl", "not -5", True),
    ("history: {ttl: ‸null}", "history.ttl", "not nothing", True),
    ("history: {ttl: ‸false}", "history.ttl", "not false", True),
    ("history: {ttl: ‸{h: 24}}", "history.ttl", "not a mapping", True),
    ("max_message_size: ‸0", "max_message_size", "from 1B to 1MiB, not 0", True),
    ("max_message_size: ‸2MiB", "max_message_size", 'from 1B to 1MiB, not "2MiB"', True),
    ("max_message_size: ‸1048577", "max_message_size", "from 1B to 1MiB", True),
    ("max_message_size: ‸64KB", "max_message_size", "bytes, or 500B, 64kB, 64KiB or 1MiB", True),
    ("max_message_size: ‸big", "max_message_size", 'not "big"', True),
    ("max_message_size: ‸null", "max_message_size", "not nothing", True),
    ("max_message_size: ‸true", "max_message_size", "not true", True),
    ("max_message_size: ‸[64]", "max_message_size", "not a list", True),
    ("‸max_mesage_size: 64", "max_mesage_size", "did you mean max_message_size?", True),
    ("slow_subscriber: ‸catchup", "slow_subscriber", "did you mean catch_up?", True),
    ("slow_subscriber: ‸null", "slow_subscriber", "not nothing", True),
    ("slow_subscriber: ‸{}", "slow_subscriber", "not a mapping", True),
    ("‸slow_subscribers: catch_up", "slow_subscribers", "did you mean slow_subscriber?", True),
    ("presence: ‸true", "presence", "presence is not yet available: write false", True),
    ("presence: ‸full", "presence", "write true or false", True),
    ("presence: ‸null", "presence", "not nothing", True),
    ("presence: ‸0", "presence", "write true or false, not 0", True),
    ("‸presense: false", "presense", "did you mean presence?", True),
    (
        "rate_limit: ‸10",
        "rate_limit",
        "write 10/s, or {per_identity: 10/s, per_channel: 1000/s, burst: 50}, not 10",
        True,
    ),
    ("rate_limit: ‸[10/s]", "rate_limit", "not a list", True),
    ("rate_limit: ‸fast", "rate_limit", 'write 10/s, 600/m or 3600/h, not "fast"', True),
    ("rate_limit: ‸10/d", "rate_limit", 'not "10/d"', True),
    ("rate_limit: ‸0/s", "rate_limit", 'from 1 to 1000000, not "0/s"', True),
    ("rate_limit: ‸1000001/s", "rate_limit", "from 1 to 1000000", True),
    ("rate_limit: {‸per: 1s}", "rate_limit.per", "the keys here are per_identity, per_channel, burst", True),
    ("rate_limit: {per_identity: ‸10}", "rate_limit.per_identity", "write 10/s, 600/m or 3600/h, not 10", True),
    ("rate_limit: {per_channel: ‸null}", "rate_limit.per_channel", "not nothing", True),
    ("rate_limit: {per_identity: 1/s, burst: ‸0}", "rate_limit.burst", "from 1 to 1000000, not 0", True),
    ("rate_limit: {per_identity: 1/s, burst: ‸10/s}", "rate_limit.burst", "a number such as 1000", True),
    ("rate_limit: ‸{per_channel: 1/s, burst: 5}", "rate_limit", "burst is for per_identity", True),
    ("‸ratelimit: null", "ratelimit", "did you mean rate_limit?", True),
]

# marked file, key path, a telling fragment, whether the JSON Schema sees it as well
WHOLE = [
    (f"backend: ‸redis://h/x\n{ROOT}", "backend", "what follows the host is wrong", True),
    (f"backend: redis://h\ndefaults: {{history: {{size: ‸1}}}}\n{ROOT}", "defaults.history.size", "keeps no", False),
    ("backend: redis://h\nchannels: {a: {history: {ttl: 1h, size: ‸9}}}", "channels.a.history.size", "write 0", False),
    (f"backend: ‸postgress://h\n{ROOT}", "backend", "did you mean postgres?", True),
    (f"backend: ‸redis+asyncpg://h\n{ROOT}", "backend", "redis://user:password@host:6379/0", True),
    (f"backend: ‸postgres://h:port/db\n{ROOT}", "backend", "its host or port is wrong", True),
    (f"postgres: ‸inline\n{ROOT}", "postgres", "must be a mapping", True),
    (f"postgres: {{inline: ‸'yes'}}\n{ROOT}", "postgres.inline", 'write true or false, not "yes"', True),
    (f"postgres: {{inline: ‸null}}\n{ROOT}", "postgres.inline", "not nothing", True),
    (f"postgres: {{‸inlined: true}}\n{ROOT}", "postgres.inlined", "did you mean inline?", True),
    (f"‸postgre: {{}}\n{ROOT}", "postgre", "did you mean postgres?", True),
    (f"backend: ‸kafka://h?a=b\n{ROOT}", "backend", "kafka.tls, kafka.ca and kafka.sasl are keys of the file", True),
    (f"backend: ‸kafka://h/a$b\n{ROOT}", "backend", "a prefix has up to 100 letters, digits and . _ -", True),
    (f"backend: ‸kafka://h:0\n{ROOT}", "backend", "a host or port is wrong", True),
    (
        "backend: kafka://h\nkafka: {sasl: ‸SCRAM}\nchannels: {a: {}}\n",
        "kafka.sasl",
        "write PLAIN, SCRAM-SHA-256",
        True,
    ),
    (
        "backend: kafka://h\nchannels: {a: {topic: ‸a/b}}\n",
        "channels.a.topic",
        "must be the name of a topic in Kaf",
        True,
    ),
    ("backend: kafka://h\nchannels: {'a.{b}': {topic: ‸c}}\n", 'channels."a.{b}".topic', "not a family", False),
    ("backend: memory://\nchannels: {a: {topic: ‸c}}\n", "channels.a.topic", "such as kafka://; remove it", False),
    (f"backend: ‸redis-stream://h:port\n{ROOT}", "backend", "its host or port is wrong", True),
    (f"backend: ‸redis-stream+cluster://h/1\n{ROOT}", "backend", "what follows the host is wrong", True),
    (f"backend: ‸redis-stream+sentinel://h\n{ROOT}", "backend", "redis-stream+sentinel://user:password@host1", True),
    (f"backend: ‸redis-stream://h?db=1\n{ROOT}", "backend", "what may follow the question mark is ssl_ca_certs", True),
    (f"redis: {{min_replicas: ‸-1}}\n{ROOT}", "redis.min_replicas", "from 0 to 100", True),
    (f"backend: ‸mysql://h\n{ROOT}", "backend", "there is no backend mysql://", True),
    (f"backend: ‸memroy://\n{ROOT}", "backend", "did you mean memory?", True),
    (f"backend: ‸memory\n{ROOT}", "backend", "must be a URL that starts with memory://, postgres://", True),
    (f"backend: ‸3\n{ROOT}", "backend", "must be a URL such as memory://, not 3", True),
    (f"backend: ‸null\n{ROOT}", "backend", "not nothing", True),
    (f"backend: ‸[]\n{ROOT}", "backend", "not a list", True),
    (f"‸backand: memory://\n{ROOT}", "backand", "did you mean backend?", True),
    (f"auth: ‸secret\n{ROOT}", "auth", "must be a mapping", True),
    (f"auth: ‸[keys]\n{ROOT}", "auth", "must be a mapping", True),
    (f"auth: {{‸key: abcdefgh}}\n{ROOT}", "auth.key", "did you mean keys?", True),
    (f"auth: {{keys: ‸short}}\n{ROOT}", "auth.keys[0]", "at least 8 characters", True),
    (f"auth: {{keys: ‸'long enough'}}\n{ROOT}", "auth.keys[0]", "visible ASCII", True),
    (f"auth: {{keys: ‸'abcdefgh, short'}}\n{ROOT}", "auth.keys[1]", "at least 8 characters", True),
    (f"auth: {{keys: ‸schlüssel}}\n{ROOT}", "auth.keys[0]", "visible ASCII", True),
    (f"auth: {{keys: ‸12345678}}\n{ROOT}", "auth.keys", 'write keys as "text"', True),
    (f"auth: {{keys: ‸1234567.8}}\n{ROOT}", "auth.keys", 'write keys as "text"', True),
    (f"auth: {{keys: ‸true}}\n{ROOT}", "auth.keys", 'write keys as "text"', True),
    (f"auth: {{keys: ‸{{a: b}}}}\n{ROOT}", "auth.keys", 'write keys as "text"', True),
    (f"auth: {{keys: ['', ‸short]}}\n{ROOT}", "auth.keys[1]", "at least 8 characters", True),
    (f"auth: {{keys: [‸12345678]}}\n{ROOT}", "auth.keys[0]", "put it in quotes", True),
    (f"auth: {{keys: [‸1234567.8]}}\n{ROOT}", "auth.keys[0]", "put it in quotes", True),
    (f"auth: {{keys: [‸[abcdefgh]]}}\n{ROOT}", "auth.keys[0]", "a key is text", True),
    (f"auth: {{tokens: ‸secret}}\n{ROOT}", "auth.tokens", "must be a mapping", True),
    (f"auth: {{tokens: {{secret: ‸abc}}}}\n{ROOT}", "auth.tokens.secret", "a secret needs at least 32 bytes", True),
    (f"auth: {{tokens: {{secret: ‸12}}}}\n{ROOT}", "auth.tokens.secret", "write the secret as text in quotes", True),
    (
        f"auth: {{tokens: {{jwks: ‸'http://a'}}}}\n{ROOT}",
        "auth.tokens.jwks",
        "write https://: http:// is only for",
        True,
    ),
    (f"auth: {{ask: {{url: ‸'https://me:hunter2@a'}}}}\n{ROOT}", "auth.ask.url", "without a user", True),
    (f"auth: {{ask: {{forward: [cookie, ‸host]}}}}\n{ROOT}", "auth.ask.forward[1]", "host is never forwarded", True),
    (f"auth: {{ask: {{forward: ‸cookie}}}}\n{ROOT}", "auth.ask.forward", "list", True),
    (f"auth: {{ask: {{timeout: ‸1m}}}}\n{ROOT}", "auth.ask.timeout", "write whole seconds, 500ms or 2s", True),
    (f"auth: {{ask: {{timeout: ‸99ms}}}}\n{ROOT}", "auth.ask.timeout", "from 100ms to 30s", True),
    (f"auth: {{tokens: {{jwks: ‸'https://a'}}}}\n{ROOT}", "auth.tokens.jwks", "jwks needs issuer and audience", False),
    (f"auth: {{tokens: {{issuer: ‸'a b'}}}}\n{ROOT}", "auth.tokens.issuer", "write a text without spaces", True),
    (f"auth: {{tokens: {{audience: ‸[me]}}}}\n{ROOT}", "auth.tokens.audience", "write a text without spaces", True),
    (f"auth: {{tokens: {{cookie: ‸'a b'}}}}\n{ROOT}", "auth.tokens.cookie", "write the name of a cookie", True),
    (f"auth: {{tokens: {{cookie: ‸session}}}}\n{ROOT}", "auth.tokens.cookie", "name your pages in 'origins'", False),
    (f"auth: {{tokens: {{max_lifetime: ‸0s}}}}\n{ROOT}", "auth.tokens.max_lifetime", "must be from 1s to 365d", True),
    (f"auth: {{tokens: {{leeway: ‸6m}}}}\n{ROOT}", "auth.tokens.leeway", "must be from 0s to 5m", True),
    (f"auth: {{tokens: {{claims: {{‸get: a}}}}}}\n{ROOT}", "auth.tokens.claims.get", "unknown key", True),
    (f"auth: {{keys: [‸{{name: a}}]}}\n{ROOT}", "auth.keys[0]", "key is missing", True),
    (f"auth: {{keys: [‸{{name: a b, key: abcdefgh}}]}}\n{ROOT}", "auth.keys[0]", "name: write 1 to 64 letters", True),
    (
        f"auth: {{keys: [‸{{name: a, key: abcdefgh, publish: b}}]}}\n{ROOT}",
        "auth.keys[0]",
        "publish: write a list",
        True,
    ),
    (f"auth: {{keys: [‸{{name: a, key: abcdefgh, pubish: b}}]}}\n{ROOT}", "auth.keys[0]", "unknown key", True),
    (f"auth: {{keys: [‸{{name: a, key: abcdefgh, revoke: 1}}]}}\n{ROOT}", "auth.keys[0]", "revoke: write true", True),
    (f"auth: {{tokens: {{‸secrets: ''}}}}\n{ROOT}", "auth.tokens.secrets", "did you mean secret?", True),
    (f"origins: ‸'*'\n{ROOT}", "origins", 'must be a list, such as ["*"]', True),
    (f"origins: ‸null\n{ROOT}", "origins", "must be a list", True),
    (f"origins: ‸{{}}\n{ROOT}", "origins", "must be a list", True),
    (f"origins: ['*', ‸example.com]\n{ROOT}", "origins[1]", "an origin without a path", True),
    (f"origins: [‸'https://example.com/']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://*.com']\n{ROOT}", "origins[0]", "https://*.example.com, not", True),
    (f"origins: [‸'https://*.a.*.com']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://*.1.2.3.4']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://xn--\u00fc..example']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"operators: ‸token\n{ROOT}", "operators", "write anyone or key, not", True),
    (f"operators: ‸nobody\n{ROOT}", "operators", "write anyone or key, not", True),
    (f"origins: [‸'https://a:b']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://127.1']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://2130706433']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://0x7f.0.0.1']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://a.0x']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'http://[::ffff:1.2.3.4]']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'http://[1::2::3]']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://a:99999']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'https://a:0']\n{ROOT}", "origins[0]", "an origin without a path", True),
    (f"origins: [‸'wss://a.example']\n{ROOT}", "origins[0]", "starts with https:// or http://", True),
    (f"origins: [‸5]\n{ROOT}", "origins[0]", "not 5", True),
    (f"origins: [‸null]\n{ROOT}", "origins[0]", "not nothing", True),
    (f"‸origin: ['*']\n{ROOT}", "origin", "did you mean origins?", True),
    (f"limits: ‸100\n{ROOT}", "limits", "must be a mapping", True),
    (f"limits: {{‸connection: 5}}\n{ROOT}", "limits.connection", "did you mean connections?", True),
    (f"limits: {{connections: ‸0}}\n{ROOT}", "limits.connections", "from 1 to 1000000, not 0", True),
    (f"limits: {{connections: ‸null}}\n{ROOT}", "limits.connections", "not nothing", True),
    (f"limits: {{connections_per_address: ‸0}}\n{ROOT}", "limits.connections_per_address", "from 1 to 1000000", True),
    (f"limits: {{frames: ‸10/s}}\n{ROOT}", "limits.frames", "a number such as 1000", True),
    (f"limits: {{bodies: ‸15MiB}}\n{ROOT}", "limits.bodies", "from 16MiB to 65536MiB", True),
    (f"limits: {{request_time: ‸0}}\n{ROOT}", "limits.request_time", "from 1s to 1h, not 0", True),
    (f"limits: {{answer_time: ‸2h}}\n{ROOT}", "limits.answer_time", "from 1s to 1h", True),
    (f"defaults: ‸key\n{ROOT}", "defaults", "must be a mapping", True),
    (f"defaults: ‸[]\n{ROOT}", "defaults", "must be a mapping", True),
    (f"defaults: {{‸schema: null}}\n{ROOT}", "defaults.schema", "unknown key", True),
    (f"‸default: {{}}\n{ROOT}", "default", "did you mean defaults?", True),
    ("‸backend: memory://\n", "channels", "this key is missing", True),
    ("‸chanels: {a: {}}\n", "chanels", "did you mean channels?", True),
    ("channels:‸\n", "channels", "must be a mapping of channel names", True),
    ("channels: ‸{}\n", "channels", "no channels are declared", True),
    ("channels: ‸[a, b]\n", "channels", "must be a mapping of channel names", True),
    ("channels: ‸a\n", "channels", "must be a mapping of channel names", True),
    ("channels: {a: ‸anyone}\n", "channels.a", "must be a mapping", True),
    ("channels: {a: ‸[]}\n", "channels.a", "must be a mapping", True),
    ("channels: {a: {schema: ‸order.json}}\n", "channels.a.schema", '"order.json" cannot be read (No such file', False),
    ("channels: {a: {schema: ‸.}}\n", "channels.a.schema", "in the folder of channels.yaml or below it", True),
    ("channels: {a: {schema: ‸../order.json}}\n", "channels.a.schema", "in the folder of channels.yaml", True),
    ("channels: {a: {schema: ‸a/../../order.json}}\n", "channels.a.schema", "in the folder of channels.yaml", True),
    ("channels: {a: {schema: ‸/etc/order.json}}\n", "channels.a.schema", "in the folder of channels.yaml", True),
    ("channels: {a: {schema: ‸'https://a.example/b'}}\n", "channels.a.schema", "in the folder of channels.yaml", True),
    ("channels: {a: {schema: ‸{}}}\n", "channels.a.schema", "must be the path of a file, not a mapping", True),
    ("channels: {a: {schema: ‸5}}\n", "channels.a.schema", "must be the path of a file, not 5", True),
    ("channels: {a: {‸schemas: ''}}\n", "channels.a.schemas", "did you mean schema?", True),
    ("channels: {‸push: {}}\n", "channels.push", "this name is reserved", True),
    ("channels: {‸robots.txt: {}}\n", 'channels."robots.txt"', "this name is reserved", True),
    ("channels: {‸a/b: {}}\n", 'channels."a/b"', 'a name has no "/": only', True),
    ("channels: {‸a b: {}}\n", 'channels."a b"', 'a name has no " ": only', True),
    ("channels: {‸chat.*: {}}\n", 'channels."chat.*"', "has a parameter in braces, as in chat.{room}", True),
    ("channels: {‸'': {}}\n", 'channels.""', "1 to 255 characters, not 0", True),
    ("channels: {‸é: {}}\n", 'channels."é"', 'a name has no "é": only the letters A to Z and a to z', True),
    (f"channels: {{‸{'a' * 256}: {{}}}}\n", "channels." + "a" * 256, "1 to 255 characters, not 256", True),
    ("channels: {‸'{room}': {}}\n", 'channels."{room}"', "a literal prefix of at least one letter", True),
    ("channels: {‸'1.{room}': {}}\n", 'channels."1.{room}"', "a literal prefix of at least one letter", True),
    ("channels: {‸'a.{x}.{y}': {}}\n", 'channels."a.{x}.{y}"', "exactly one parameter", True),
    ("channels: {‸'a.{}': {}}\n", 'channels."a.{}"', "the parameter in braces is letters", True),
    ("channels: {‸'a.{1}': {}}\n", 'channels."a.{1}"', "the parameter in braces is letters", True),
    ("channels: {‸'a.{x': {}}\n", 'channels."a.{x"', "exactly one parameter", True),
    ("channels: {‸'a/{x}': {}}\n", 'channels."a/{x}"', 'a name has no "/"', True),
    ("channels: {‸'${A}': {}}\n", 'channels."${A}"', 'a name has no "$"', True),
    ("channels:\n  'a.{x}': {}\n  ‸'a.{y}': {}\n", 'channels."a.{y}"', 'the same names as "a.{x}"', False),
    ("channels: {a: {}, b: {}, ‸a: {}}\n", "channels.a", "already on line 1", False),
    (f"{ROOT}‸channels: {{b: {{}}}}\n", "channels", "already on line 1", False),
    ("channels: {a: {publish: key, ‸publish: key}}\n", "channels.a.publish", "already on line 1", False),
    ("channels: {a: {history: {size: 1, ‸size: 2}}}\n", "channels.a.history.size", "already on line 1", False),
    *(
        (f"channels:\n  ‸{name}: {{}}\n", path, f'YAML reads this name as {kind}: write it in quotes, "{name}"', False)
        for name, path, kind in [
            ("on", "channels.on", "a boolean"),
            ("No", "channels.No", "a boolean"),
            ("true", "channels.true", "a boolean"),
            ("42", "channels.42", "a number"),
            ("0x1F", "channels.0x1F", "a number"),
            ("0o17", "channels.0o17", "a number"),
            ("1e3", "channels.1e3", "a number"),
            ("4.5", 'channels."4.5"', "a number"),
            ("12:30", 'channels."12:30"', "a number"),
            ("null", "channels.null", "nothing (null)"),
            ("2026-01-02", "channels.2026-01-02", "a date"),
        ]
    ),
]


@pytest.mark.parametrize(("start", "section", "end"), PLACES)
@pytest.mark.parametrize("row", POLICY, ids=lambda row: row[0])
def test_a_wrong_policy_is_pointed_at_and_corrected(judge: Judge, row: Row, start: str, section: str, end: str) -> None:
    """Loader points at a wrong policy, in the defaults and in a channel, and says what to write."""
    entry, path, fragment, editor = row
    judge((start + entry + end, f"{section}.{path}", fragment, editor))


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: row[0])
def test_whatever_else_is_wrong_in_the_file_is_pointed_at(judge: Judge, row: Row) -> None:
    """Loader points at whatever else is wrong in the file and says what to write."""
    judge(row)


@pytest.fixture(scope="module")
def editor_schema() -> jsonschema_rs.Validator:
    """Return what an editor holds a file against."""
    return jsonschema_rs.validator_for(json_schema())


@pytest.fixture
def judge(problems: Problems, expected: Expected, editor_schema: jsonschema_rs.Validator) -> Judge:
    """Return what asserts place, path and wording of a row's problem, and what an editor would show."""

    def assert_row(row: Row) -> None:
        marked, path, fragment, editor = row
        text, place = expected(marked)
        problem = next(problem for problem in problems(text) if problem.key_path == path)
        assert (problem.line, problem.column) == place
        assert fragment in problem.message
        assert not editor or not editor_schema.is_valid(yaml.safe_load(text))

    return assert_row


@pytest.mark.parametrize(
    ("marked", "fragment"),
    [
        ("‸", "the file is empty"),
        ("‸# only a comment\n", "the file is empty"),
        ("‸---\n", "the file is empty"),
        ("‸null\n", "the file is empty"),
        ("‸hello\n", "must be a mapping"),
        ("‸- a\n- b\n", "must be a mapping"),
        ("channels:\n‸\ta: {}\n", "indent with spaces"),
        ("channels:\n  a: {}\n ‸b: {}\n", "this is not YAML: this line is indented more than the entries before it"),
        ("channels: ‸{a: {}\n", "is never closed: write } at its end"),
        ("channels:\n  ‸'a: {}\n", "the quote that begins here is never closed"),
        (
            "channels: {a: {publish: key\n  b‸: {}}\n",
            "a comma is missing here, or the } that ends what was",
        ),
        ("channels:\n  - a\n  ‸b: {}\n", "a list and a mapping are mixed here"),
        ("channels: {a: {}}‸}\n", "there is a } with nothing to close"),
        ("channels:\n  a: publish‸: key\n", "there cannot be a ': ' here"),
        ("channels: {a: {publish: ‸@x}}\n", "no text begins with @ in YAML: put the text in quotes"),
        ("origins: [*‸]\nchannels: {a: {}}\n", 'a * begins an alias: put the text in quotes, as in "*"'),
        ('channels: {"a\\‸q": {}}\n', r"\q is no escape in double quotes: write \\q, or use single quotes"),
        ("channels: {a: {}}\n...\n‸b: {}\n", "the YAML document has ended above this line"),
        ("channels: {a: {}}\n‸b\n", "a key without a colon: write 'key: value'"),
        ("channels: {chat.‸{room}: {}}\n", 'goes in "quotes"'),
        ("auth: {keys: $‸{PUSH_KEYS}}\nchannels: {a: {}}\n", 'goes in "quotes"'),
        ("channels: {a: ‸*nothing}\n", "the alias *nothing has no anchor &nothing"),
        ("channels: {a: {}}\n‸---\nchannels: {b: {}}\n", "remove the line ---"),
        ("channels: ‸!!python/object/apply:os.system ['true']\n", 'remove "tag:yaml.org,2002:python/object/apply'),
        ("channels: {a: {publish: ‸!!str key}}\n", "tags are not supported"),
        ("channels: {a: {publish: ‸!local key}}\n", 'remove "!local"'),
        ("channels: {‸!!str a: {}}\n", "tags are not supported"),
        ("channels: {a: &x {}, b: {‸<<: *x}}\n", "merge keys (<<) are not supported"),
        ("channels: {a: {}, ‸[b]: {}}\n", "a key must be text"),
        ("channels: {a: {}, ‸{{b}}: {}}\n", "a key must be text"),
        ("channels: ‸&x {a: {}, b: *x}\n", "cannot be inside itself"),
        (f"channels: {'[' * 19}‸{'[' * 1000}\n", "nested deeper than 20"),
        ("channels: {a: {}} # \ud83d\ude00‸\x07\n".encode("utf-16", "surrogatepass").decode("utf-16"), "'\\x07'"),
        ("‸%YAML 1." + "9" * 5000 + "\n---\na: b\n", "far too large"),
        ('‸a: "\\UFFFFFFFF"\n', "far too large"),
        ("backend: ‸${NOPE}\nchannels: {a: {}}\n", "the variable NOPE is not set"),
        ("backend: ‸'${NOPE}'\nchannels: {a: {}}\n", "${NOPE:-…}"),
        ("backend: ‸${BAD-x}\nchannels: {a: {}}\n", "write ${NAME} or ${NAME:-default}"),
        ("backend: ‸x${unclosed\nchannels: {a: {}}\n", "write ${NAME} or ${NAME:-default}"),
    ],
)
def test_text_that_is_no_plain_yaml_document_is_pointed_at(
    problems: Problems, expected: Expected, marked: str, fragment: str
) -> None:
    """Loader points at text that is not one plain YAML document, and says why."""
    text, place = expected(marked)
    first = problems(text)[0]
    assert (first.line, first.column) == place
    assert fragment in first.message


def test_all_problems_are_reported_at_once(problems: Problems) -> None:
    """Loader reports all the problems of a file, in the order of its lines, one line each."""
    found = problems("backend: ${NO}\nchannels:\n  push: {publish: x}\n  on: {y: 1}\norigins: a\n")
    assert [(p.line, p.key_path) for p in found] == [
        (1, "backend"),
        (3, "channels.push"),
        (3, "channels.push.publish"),
        (4, "channels.on"),
        (4, "channels.on.y"),
        (5, "origins"),
    ]


MAPPING = "must be a mapping of keys to values, as in {size: 1000, ttl: 24h}"


def test_a_variable_that_is_missing_is_one_problem(problems: Problems) -> None:
    """Loader does not complain of policies that need a secret whose variable is not set."""
    found = problems('auth: {tokens: {secret: "${NOPE}"}}\nchannels: {a: {subscribe: token}}\n')
    assert [problem.key_path for problem in found] == ["auth.tokens.secret"]


def test_a_problem_reads_as_place_and_message(problems: Problems) -> None:
    """Diagnostic reads as file, line, column, key path and message."""
    (problem,) = problems("channels:\n  news:\n    publish: key\n    history: none\n")
    assert str(problem) == f"{problem.file}:4:14: channels.news.history: {MAPPING}"
    assert problem.file.endswith("/channels.yaml")


def test_the_first_byte_that_is_not_utf8_is_pointed_at(problems: Problems) -> None:
    """Loader points at the first byte that is not UTF-8."""
    (problem,) = problems(b"channels:\n  caf\xe9: {}\n")
    assert (problem.line, problem.column) == (2, 6)
    assert "not UTF-8 (byte 0xe9)" in problem.message


def test_a_file_over_a_mebibyte_is_refused_unparsed(problems: Problems) -> None:
    """Loader refuses a file of more than 1 MiB without parsing it."""
    (problem,) = problems(b"# " + b"x" * 1024 * 1024)
    assert "more than 1048576 bytes" in problem.message


def test_an_alias_bomb_is_refused_in_no_time(problems: Problems) -> None:
    """Loader reads aliases of aliases of aliases in no time, and refuses what they make."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 60))
    found = problems(f"l0: &l0 [a]\n{levels}channels: *l59\n")
    assert any(p.key_path == "channels" for p in found)


def test_a_chain_of_aliases_in_duplicates_ends_no_loader(problems: Problems) -> None:
    """Loader is not led into deep recursion by aliases that only refused keys hold."""
    chain = "".join(f"a: &x{n} [*x{n - 1}]\n" for n in range(1, 3000))
    assert len(problems(f"a: &x0 []\n{chain}channels: *x2999\n")) > 2999


def test_secrets_are_not_shown(problems: Problems) -> None:
    """Errors never hold a key, a password, or what a variable of the environment holds."""
    text = (
        "backend: ${URL}\nauth: {keys: '${KEYS}', tokens: {secret: '${KEYS}'}}\n"
        "origins: ['${KEYS}']\n"
        "channels: {a: {publish: '${KEYS}', client_publish: '${KEYS}', max_message_size: '${KEYS}'}}\n"
    )
    found = problems(text, URL="hunter2:hunter2@db", KEYS="hunter2")
    assert len(found) == 7
    assert "hunter2" not in repr(found)
    for url in ("redis://me:hunter2@h/0?p=hunter2", "postgres://me:hunter2@h:hunter2/db"):
        assert "hunter2" not in str(problems(f"backend: {url}\nchannels: {{a: {{}}}}"))


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("backend: ${URL:-memory://}", {"URL": "mysql://me:hunter2@h"}, "URL: there is no backend mysql://: write"),
        ("backend: ${S}://${H}", {"S": "nats", "H": "hunter2"}, "S and H: there is no backend nats://: write"),
        ("auth: {keys: '${KEYS:-}'}", {"KEYS": "hunter2"}, "KEYS: "),
        ("backend: ${URL:-mysql://h}", {"URL": ""}, "{file}:1:10: backend: there is no backend mysql://"),
    ],
)
def test_a_wrong_variable_is_named_rather_than_the_file(
    problems: Problems, text: str, variables: dict[str, str], expected: str
) -> None:
    """Problem of a value that came from variables begins with their names, and ends with its place in the file."""
    (problem,) = problems(f"{text}\nchannels: {{a: {{}}}}\n", **variables)
    assert str(problem).startswith(expected.replace("{file}", problem.file))
    if problem.variables:
        assert str(problem).endswith(f" ({problem.key_path} in {problem.file}:1:{problem.column})")
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("url", ["hunter2", "hunter2://h", "memory://hunter2", "postgres://h:hunter2/db"])
def test_a_wrong_direct_url_is_named_and_not_shown(problems: Problems, url: str) -> None:
    """Loader names DIRECT_DATABASE_URL when it does not lead to a Postgres, and does not show it."""
    (problem,) = problems("backend: postgres://h/db\nchannels: {a: {}}", DIRECT_DATABASE_URL=url)
    assert str(problem).startswith("DIRECT_DATABASE_URL: ")
    assert "postgres://" in problem.message
    assert "hunter2" not in repr(problem)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_an_unreadable_file_is_named_with_its_variable(problems: Problems, tmp_path: object, kind: str) -> None:
    """Loader names the file that it cannot read, and the variable that chose it."""
    path = f"{tmp_path}/none.yaml" if kind == "missing" else str(tmp_path)
    (problem,) = problems("", CHANNELS_CONFIG=path)
    assert str(problem).startswith(f"{path}: cannot be read (")
    assert "CHANNELS_CONFIG" in problem.message
