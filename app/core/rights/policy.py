"""Who may publish or subscribe: policies, and the callers that they judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from app.core.errors import AbideError, ForbiddenError, UnauthorisedError
from app.core.rights.token import Rights, Token, Verb, claim, values

_SEND_A_KEY = "send 'Authorization: Bearer <key>'"
_SEND_A_TOKEN = "send 'Authorization: Bearer <token>'"  # noqa: S105 — what to send, not a secret
_SET_KEYS = "set auth.keys in channels.yaml, as shipped the variable PUSH_KEYS"

_WHOM = {Verb.PUBLISH: "messages", Verb.SUBSCRIBE: "subscribers"}


class Access(StrEnum):
    """Who may publish or subscribe, and who is an operator."""

    ANYONE = "anyone"
    KEY = "key"
    OPERATORS = "operators"
    TOKEN = "token"  # noqa: S105 — a policy's name, not a secret
    ASK = "ask"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Claim:
    """Admits a token whose claim equals the parameter of the channel's name."""

    path: str

    def __str__(self) -> str:
        return f"{{claim: {self.path}}}"


class Caller(NamedTuple):
    """What a caller's request showed: enough to judge the caller again under new settings."""

    digest: bytes | None = None
    """The digest of the bearer credential; None without one."""
    is_near: bool = False
    """The request came from this machine, and through no proxy."""
    origin: str | None = None
    """The origin of the page; None where no page sent the request."""
    is_own: bool = False
    """The page is one of this server's."""
    is_elsewhere: bool = False
    """The page is this server's by its name, but the name is not this machine's and no proxy forwarded the request:
    an attacker may have pointed the name here (DNS rebinding)."""
    is_cross_site: bool = False
    """Another site's page caused the request, without an Origin."""
    bearer: str | None = None
    """The bearer credential itself; None without one, and after the caller is identified."""
    ticket: str | None = None
    """The ticket in the query; None as above."""
    client: str | None = None
    """The address that the request comes from; None if it is not known."""
    headers: Mapping[str, str] = {}
    """The headers by lower-case name; empty as above. The cookie may have a token, and an application may be asked."""


NOBODY = Caller()


class Forwarded(NamedTuple):
    """What an application that is asked learns of a caller."""

    headers: tuple[tuple[str, str], ...] = ()
    """The headers that the configuration names; they hold the caller's credentials."""
    origin: str | None = None
    client: str | None = None
    """The caller's address."""


class Question(NamedTuple):
    """What an application is asked: whether a caller may publish or subscribe."""

    action: Verb
    channel: str
    family: str
    """The declared name."""
    parameter: str | None
    """The family's parameter; None for a plain channel."""


class Answer(NamedTuple):
    """What an application says of a caller whom it admits."""

    sub: str | None = None
    until: float | None = None
    """Seconds since the Unix epoch; None for no end."""


class Identity(NamedTuple):
    """The authenticated caller."""

    key: Rights | None = None
    """The rights of the key that it sent; None without a key."""
    token: Token | None = None
    name: str = ""
    """Differs for each key and each subject of tokens, and is not secret; empty without. Idempotency keys are scoped by
    it."""
    is_operator: bool = False
    """The caller may see what operators see, and publish where only they may."""
    may_revoke: bool = False
    """The caller may take tokens back."""
    fault: str | None = None
    """What is wrong with the credential that it sent; None if it sent a good one, or none."""
    reason: str = "no key was sent"
    """Why there is no key, for the detail of a refusal."""
    keys_exist: bool = True
    """Whether any keys are configured; without them nobody can become an operator by a key."""
    caller: Caller = NOBODY
    """What this identity was derived from."""
    forwarded: Forwarded = Forwarded()
    """What an application that is asked learns."""
    subject: str | None = None
    """Whom the token or the application's answer is about; None if they do not say."""
    ends: float | None = None
    """When what the caller has open ends, in seconds since the Unix epoch; None for never."""
    asked: bool = False
    """The application was asked, and admitted the caller."""
    rules: object = None
    """The rules that it was derived by: under them, only the end of its token can change it."""

    def check(self) -> None:
        """Raise :class:`UnauthorisedError` if the caller sent a credential that is not good."""
        if self.fault is not None:
            raise UnauthorisedError(self.fault)

    def check_operator(self, rule: str) -> None:
        """Raise unless the caller is an operator; ``rule`` says what only operators may do, and begins the detail.

        Raises :class:`UnauthorisedError`, or :class:`ForbiddenError` where no key would help.
        """
        self._check_key(rule, "send a key of auth.keys that is not limited", is_admitted=self.is_operator)

    def check_may_revoke(self) -> None:
        """Raise unless the caller may take tokens back and close connections, as :meth:`check_operator` does."""
        keys = "a text of auth.keys, or a named key with 'revoke: true'"
        self._check_key("only a key may take tokens back", keys, is_admitted=self.may_revoke)

    def _check_key(self, rule: str, keys: str, *, is_admitted: bool) -> None:
        self.check()
        if is_admitted:
            return
        if self.key is not None or self.token is not None:
            msg = f"{rule}: {keys}"
            raise ForbiddenError(msg)
        if self.keys_exist:
            msg = f"{rule}, and {self.reason}: {_SEND_A_KEY}"
            raise UnauthorisedError(msg)
        msg = f"{rule}, and {self.reason}: {_SET_KEYS}"
        raise ForbiddenError(msg)


ANONYMOUS = Identity()


class Subject(NamedTuple):
    """A channel that a caller wants to use."""

    verb: Verb
    name: str
    declared: str
    family: str | None
    """The declared name with ``*`` for its parameter; None for a plain channel."""
    parameter: str | None


@dataclass(frozen=True, slots=True)
class Policy:
    """Admits whoever one of its entries admits."""

    entries: tuple[Access | Claim, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.entries))

    def __contains__(self, entry: Access) -> bool:
        return entry in self.entries

    @property
    def takes_tokens(self) -> bool:
        """Whether a token can admit a caller."""
        return any(entry is Access.TOKEN or isinstance(entry, Claim) for entry in self.entries)

    def might_admit(self, identity: Identity) -> bool:
        """Whether the policy admits the caller to some channel."""
        if identity.fault is not None and not self.asks:
            return False
        return any(_might_admit(entry, identity) for entry in self.entries)

    @property
    def asks(self) -> bool:
        """Whether the application decides about callers whom nothing else admits."""
        return Access.ASK in self.entries

    def admitting(self, identity: Identity, subject: Subject) -> Access | Claim | None:
        """Return the entry, other than ``ask``, that admits the caller to a channel; None if none does."""
        for entry in self.entries:  # each handshake and each push of a token asks
            if _admits(entry, identity, subject):
                return entry
        return None

    def refusal(self, identity: Identity, subject: Subject) -> AbideError:  # noqa: PLR0911 — one for each kind
        """Return the error for a caller whom no entry admits."""
        channel, whom = f"channel {subject.declared!r}", _WHOM[subject.verb]
        if Access.NOBODY in self.entries:
            return ForbiddenError(f"{channel} does not accept {whom} ({subject.verb}: {self})")
        if identity.token is not None and self.takes_tokens:
            return ForbiddenError(f"{channel} refuses the token: {'; '.join(self._reasons(identity.token, subject))}")
        if identity.key is not None and Access.KEY in self.entries:
            return ForbiddenError(f"{channel} accepts {whom} with a key, and the key sent is for other channels")
        if self.entries == (Access.OPERATORS,):
            return _refused_operator(identity, f"only operators may {subject.verb} to {channel}")
        if identity.token is not None or identity.key is not None:
            credential = "token" if identity.token is not None else "key"
            return ForbiddenError(f"{channel} refuses the {credential} sent: its policy is {subject.verb}: {self}")
        if self.takes_tokens:
            return UnauthorisedError(f"{channel} accepts {whom} only with a token, and none was sent: {_SEND_A_TOKEN}")
        remedy = _SEND_A_KEY if identity.keys_exist else _SET_KEYS
        return UnauthorisedError(f"{channel} accepts {whom} only with a key, and {identity.reason}: {remedy}")

    def _reasons(self, token: Token, subject: Subject) -> list[str]:
        """Return what a token would need, for each entry that looks at tokens."""
        reasons = []
        for entry in self.entries:
            if entry is Access.TOKEN:
                grants = f"{subject.name!r}" if subject.family is None else f"{subject.name!r} or {subject.family!r}"
                reasons.append(f"its {subject.verb} grants do not list {grants}")
            elif isinstance(entry, Claim):
                found = values(claim(token.claims, entry.path))
                missing = f"has no claim {entry.path!r}" if not found else f"claim {entry.path!r} is another"
                reasons.append(f"it {missing}" if not found else f"its {missing} than the name's parameter")
        return reasons


def _refused_operator(identity: Identity, rule: str) -> AbideError:
    try:
        identity.check_operator(rule)
    except AbideError as error:
        return error
    raise AssertionError(rule)  # called only for a caller who is no operator


def _might_admit(entry: Access | Claim, identity: Identity) -> bool:
    match entry:
        case Access.ANYONE | Access.ASK:
            return True
        case Access.KEY:
            return identity.key is not None
        case Access.OPERATORS:
            return identity.is_operator
        case Access.NOBODY:
            return False
        case _:
            return identity.token is not None


def _admits(entry: Access | Claim, identity: Identity, subject: Subject) -> bool:
    if entry is Access.ANYONE:
        return True
    if entry is Access.KEY:
        return identity.key is not None and identity.key.cover(subject.verb, subject.name, subject.family)
    if entry is Access.OPERATORS:
        return identity.is_operator
    token = identity.token
    if token is None:
        return False
    if entry is Access.TOKEN:
        return token.rights.cover(subject.verb, subject.name, subject.family)
    return isinstance(entry, Claim) and subject.parameter in values(claim(token.claims, entry.path))


ANYONE = Policy((Access.ANYONE,))
KEY = Policy((Access.KEY,))
