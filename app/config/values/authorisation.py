"""The values of ``auth`` and of policies: who may."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BeforeValidator, PlainValidator, WithJsonSchema

from app.access.auth_settings import Key
from app.config.diagnostics import did_you_mean, listed, quoted
from app.config.patterns import BLANKS, VARIABLE, fits, whole
from app.config.values import units
from app.config.values.fields import or_variable, quantity, quantity_schema, refuse, show, text_schema
from app.config.yaml.document import Unquoted
from app.core.rights.policy import Access, Claim, Policy
from app.core.rights.token import EVERYTHING, Rights

MIN_SECRET = 32
"""The fewest bytes of a secret for HS256 (RFC 7518 §3.2)."""

MAX_LIFETIME = 365 * units.DURATIONS["d"]
MAX_LEEWAY = 5 * units.DURATIONS["m"]

_KEY = "[!-~]{8,}"
_BLANK = f"[{BLANKS}]*"
_UNSET = r"(?![\s\S]*\$\{)"
_ONE_KEY = whole(rf"{_UNSET}{_BLANK}(?:{_KEY})?{_BLANK}")
_SOME_KEYS = whole(rf"{_UNSET}{_BLANK}(?:[!-+.-~-]{{8,}})?{_BLANK}(?:,{_BLANK}(?:[!-+.-~-]{{8,}})?{_BLANK})*")
"""In one text with commas between the keys, no key has a comma."""
_KEY_NAME = whole(r"[A-Za-z0-9_-]{1,64}")
_GRANT = whole(r"[A-Za-z0-9_.:|@+=~'*-]{1,255}")
_PATH = whole(rf"{_UNSET}[!-~]{{1,255}}")
_COOKIE = whole(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,255}")
_VISIBLE = whole(rf"{_UNSET}[!-~]{{1,2000}}")
_SECRET = whole(rf"{_UNSET}(?:[\s\S]{{{MIN_SECRET},}}|{_BLANK})")

_SEQUENCE, _LONG = 0x30, 0x80
"""ASN.1's tag of a sequence, and the bit of a length that has bytes of its own."""

_KEY_MEMBERS = ("name", "key", "publish", "subscribe", "revoke")
_POLICIES = tuple(Access)
_ALONE = (Access.ANYONE, Access.NOBODY)


# Policies.


def _policy(value: object) -> Policy:
    if isinstance(value, Policy):  # a default of the model
        return value
    entries = tuple(map(_entry, value)) if isinstance(value, list) else (_entry(value),)
    if not entries:
        refuse(f"the list is empty: write {listed(_POLICIES)}")
    if len(set(entries)) < len(entries):
        refuse("an entry of the list is there twice: keep one of them")
    for entry in entries:
        if entry in _ALONE and len(entries) > 1:
            refuse(f"{entry} says all there is to say: write it alone")
    return Policy(entries)


def _entry(value: object) -> Access | Claim:
    if isinstance(value, dict):
        return _claim(value)
    if isinstance(value, str) and value in _POLICIES:
        return Access(value)
    return _no_policy(value)


def _no_policy(value: object) -> NoReturn:
    near = did_you_mean(value, _POLICIES) if isinstance(value, str) else ""
    refuse(f"write {listed(_POLICIES)}, {{claim: PATH}} or a list of them, not {show(value)}{near}")


_CLAIM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["claim"],
    "additionalProperties": False,
    "properties": {"claim": {"anyOf": [{"type": "string", "pattern": _PATH}, {"type": "string", "pattern": VARIABLE}]}},
}
_TOGETHER = [entry for entry in _POLICIES if entry not in _ALONE]
_POLICY_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"enum": list(_POLICIES)},
        _CLAIM_SCHEMA,
        {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"anyOf": [{"enum": _TOGETHER}, _CLAIM_SCHEMA, {"type": "string", "pattern": VARIABLE}]},
        },
        {"type": "array", "minItems": 1, "maxItems": 1, "items": {"enum": list(_ALONE)}},
    ]
}


def _claim(value: Mapping[str, object]) -> Claim:
    path = value.get("claim")
    if value.keys() != {"claim"} or not isinstance(path, str) or not fits(_PATH, path):
        refuse("write {claim: PATH} with the name of a claim, as in {claim: sub} or {claim: app_metadata.org_id}")
    return Claim(str(path))


# Keys.


def _split(value: object) -> object:
    if value is None:
        return []
    if isinstance(value, Unquoted) or not isinstance(value, str | list):
        refuse('write keys as "text" with commas between them, or as a list of texts')
    return value.split(",") if isinstance(value, str) else value


def _key(value: object) -> Key | None:
    if isinstance(value, dict):
        return _named_key(value)
    secret = _key_text(value)
    return Key(secret) if secret else None


def _key_text(value: object) -> bytes:
    if value is None or value == "":
        return b""
    if not isinstance(value, str) or isinstance(value, Unquoted):
        refuse("a key is text: put it in quotes")
    key = value.strip(BLANKS)
    if key and not re.fullmatch(_KEY, key):
        refuse("a key needs at least 8 characters, all visible ASCII (the key is not shown here)")
    return key.encode("ascii")


def _named_key(value: Mapping[str, object]) -> Key | None:
    for member in value:
        if member not in _KEY_MEMBERS:
            refuse(f"unknown key {quoted(str(member))}: a named key has {', '.join(_KEY_MEMBERS)}")
    name, may_revoke = value.get("name"), value.get("revoke", False)
    if isinstance(name, Unquoted) or not isinstance(name, str) or not fits(_KEY_NAME, name):
        refuse("name: write 1 to 64 letters, digits, '_' or '-'")
    if not isinstance(may_revoke, bool):
        refuse(f"revoke: write true or false, not {show(may_revoke)}")
    if "key" not in value:
        refuse("key is missing: it is the text that the caller sends")
    secret = _key_text(value["key"])
    publish, subscribe = _key_grants(value, "publish"), _key_grants(value, "subscribe")
    if publish is None and subscribe is None:
        rights = EVERYTHING
    else:
        rights = Rights(publish or frozenset(), subscribe or frozenset())
    return Key(secret, str(name), rights, may_revoke=may_revoke) if secret else None


def _key_grants(value: Mapping[str, object], member: str) -> frozenset[str] | None:
    if member not in value:
        return None
    grants = value[member]
    if not isinstance(grants, list) or not all(isinstance(grant, str) and fits(_GRANT, grant) for grant in grants):
        refuse(f"{member}: write a list of channels, as in [orders, invoice.*]")
    return frozenset(map(str, grants))


def _only_keys(keys: tuple[Key | None, ...]) -> tuple[Key, ...]:
    found = tuple(key for key in keys if key is not None)
    names = [key.name for key in found if key.name is not None]
    if len(set(names)) < len(names):
        refuse("two keys have the same name: give each its own")
    return found


_GRANTS_SCHEMA = {"type": "array", "items": {"type": "string", "pattern": _GRANT}}
_NAMED_KEY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["name", "key"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": _KEY_NAME},
        "key": {"anyOf": [{"type": "null"}, *text_schema(_ONE_KEY)["anyOf"]]},
        "publish": _GRANTS_SCHEMA,
        "subscribe": _GRANTS_SCHEMA,
        "revoke": {"type": "boolean"},
    },
}


# Tokens.


def _listed_secrets(value: object) -> object:
    if value is None:
        return []
    if isinstance(value, Unquoted) or not isinstance(value, str | list):
        refuse("write the secret as text in quotes, or as a list of texts")
    return [_secret(value)] if isinstance(value, str) else value  # checked here, an error is not about an element


def _is_der(text: str) -> bool:
    """Whether a text is the Base64 of exactly one sequence of ASN.1, as what is between the lines of a PEM is."""
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    if len(found) < MIN_SECRET or found[0] != _SEQUENCE:
        return False
    size = 0 if found[1] < _LONG else found[1] - _LONG
    length = int.from_bytes(found[2 : 2 + size]) if size else found[1]
    return len(found) == 2 + size + length


def _secret(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if value is None or value == "":
        return b""
    if not isinstance(value, str) or isinstance(value, Unquoted):
        refuse("a secret is text: put it in quotes")
    secret = value.strip(BLANKS)
    bare = re.sub(r"\s|\\n", "", secret).lower()
    if "-----begin" in bare or bare.startswith(("ssh-", "ecdsa-", "{")) or _is_der(re.sub(r"\s|\\n", "", secret)):
        refuse("this looks like a public or private key, not a secret: give public keys by auth.tokens.jwks")
    if secret and len(secret.encode()) < MIN_SECRET:
        refuse(f"a secret needs at least {MIN_SECRET} bytes, as from: openssl rand -hex 32 (it is not shown here)")
    return secret.encode()


def _optional(pattern: str, what: str) -> Callable[[object], str | None]:
    def validate(value: object) -> str | None:
        if value is None or value == "":
            return None
        if not isinstance(value, str) or isinstance(value, Unquoted) or not fits(pattern, value.strip(BLANKS)):
            refuse(f"write {what}, not {show(value)}")
        return value.strip(BLANKS)

    return validate


def _optional_schema(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "null"}, {"enum": [""]}, *text_schema(pattern)["anyOf"]]})


def _drop_empty(secrets: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(filter(None, secrets))


PolicyValue = Annotated[Policy, PlainValidator(_policy), or_variable(_POLICY_SCHEMA)]
Keys = Annotated[
    tuple[Annotated[Key | None, PlainValidator(_key)], ...],
    BeforeValidator(_split),
    AfterValidator(_only_keys),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "null"},
                *text_schema(_SOME_KEYS)["anyOf"],
                {
                    "type": "array",
                    "items": {"anyOf": [{"type": "null"}, *text_schema(_ONE_KEY)["anyOf"], _NAMED_KEY_SCHEMA]},
                },
            ]
        }
    ),
]
Secrets = Annotated[
    tuple[Annotated[bytes, BeforeValidator(_secret)], ...],
    BeforeValidator(_listed_secrets),
    AfterValidator(_drop_empty),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "null"},
                *text_schema(_SECRET)["anyOf"],
                {"type": "array", "items": {"anyOf": [{"type": "null"}, *text_schema(_SECRET)["anyOf"]]}},
            ]
        }
    ),
]
Text = Annotated[str | None, BeforeValidator(_optional(_VISIBLE, "a text without spaces")), _optional_schema(_VISIBLE)]
ClaimName = Annotated[str | None, BeforeValidator(_optional(_PATH, "the name of a claim")), _optional_schema(_PATH)]
CookieName = Annotated[
    str | None, BeforeValidator(_optional(_COOKIE, "the name of a cookie")), _optional_schema(_COOKIE)
]
Lifetime = Annotated[
    int,
    BeforeValidator(
        quantity(units.DURATIONS, "whole seconds, or 30s, 15m, 24h or 7d", 1, MAX_LIFETIME, units.write_duration)
    ),
    quantity_schema(units.DURATIONS, 1, MAX_LIFETIME),
]
Leeway = Annotated[
    int,
    BeforeValidator(quantity(units.DURATIONS, "whole seconds, 30s or 1m", 0, MAX_LEEWAY, units.write_duration)),
    quantity_schema(units.DURATIONS, 0, MAX_LEEWAY),
]
