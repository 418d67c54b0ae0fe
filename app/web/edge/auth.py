"""Identifies callers by their key or token, and judges them again when the settings change."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.requests import HTTPConnection

from app.access.auth_settings import AuthSettings, Key
from app.access.refusal import TokenError
from app.access.tickets import Ticket
from app.access.tokens import KeyNeededError, Tokens, digest_of
from app.core.errors import AbideError, ForbiddenError, UnauthorisedError
from app.core.rights.policy import NOBODY, Access, Answer, Caller, Forwarded, Identity, Question
from app.core.rights.token import EVERYTHING, Token
from app.web.edge.caller import see_request, without_secrets
from app.web.edge.loopback import is_local
from app.web.edge.origins import OPAQUE, Origins

_NAME_DIGITS = 12
"""How many digits of a key's digest name its identity: enough to tell keys apart, too few to help an attacker."""

_DOTS_IN_A_TOKEN = 2

_NOTHING = Forwarded()

_NO_KEYS = "no keys are configured"
_NO_KEY = "no key was sent"
_NEITHER = "what was sent is none of the configured keys (auth.keys), and no JSON Web Token: send another key or token"
_UNKNOWN_KEY = "the key sent is none of the configured ones (auth.keys): send another, or none where none is needed"


class Tickets(Protocol):
    """Exchanges tickets for what is kept of the tokens that they were issued for."""

    async def issue(self, token: Mapping[str, Any], expires: float) -> Ticket:
        """Return a ticket. Raises ``UnavailableError``."""

    async def redeem(self, ticket: str) -> Mapping[str, Any]:
        """Return what was kept, once. Raises :class:`UnauthorisedError` and ``UnavailableError``."""


Ask = Callable[[Question, Forwarded], Awaitable[Answer]]
"""Asks the application. Raises :class:`~app.core.errors.ForbiddenError` and ``UnavailableError``."""


class Authenticator:
    """Identifies callers by the credential that they send, and by whether they are on this machine.

    The credential is the first that is there: ``Authorization: Bearer``, the subprotocol ``bearer.…``, a ticket in the
    query, the configured cookie. It is a key or a token.

    ``operators`` says who is an operator: ``anyone``, or callers with a ``key``; None for callers with a key and
    those on this machine. The latter count only if ``on_loopback``: the server listens on loopback alone.
    """

    def __init__(  # noqa: PLR0913 — what it asks, and what of it is configured
        self,
        auth: AuthSettings,
        origins: tuple[str, ...] = ("*",),
        operators: Access | None = None,
        *,
        on_loopback: bool = False,
        tokens: Tokens | None = None,
        tickets: Tickets | None = None,
        ask: Ask | None = None,
    ) -> None:
        # Digests all have the same length, so comparing them reveals nothing about a key's.
        self._keyed = [(digest_of(key.secret.decode()), self._key_holder(key, operators)) for key in auth.keys]
        self._tokens = tokens
        self._tickets = tickets
        self._cookie = None if auth.tokens is None else auth.tokens.cookie
        self._forward = () if auth.ask is None else auth.ask.forward
        self._ask = ask
        self.origins = Origins(origins, on_loopback=on_loopback)
        """The origins whose pages may use the server."""
        self.operators = operators
        """The configured policy for operators."""
        self._local_may = operators is None and on_loopback

    async def identify(self, caller: Caller) -> Identity:
        """Return the identity of a caller; a credential that is not good is its :attr:`~Identity.fault`.

        It takes a time that does not depend on how similar a wrong key is. Raises
        :class:`~app.core.errors.ForbiddenError` for a page of a foreign origin, and
        :class:`~app.core.errors.UnavailableError` if the credential cannot be judged now.
        """
        identity = self.authenticate(caller)
        if identity is not None:
            return identity
        try:
            return self._with_token(await self._token_of(caller), caller)
        except TokenError as error:
            return self._faulty(_fault(error), caller)
        except UnauthorisedError as error:
            return self._faulty(str(error), caller)

    def authenticate(  # noqa: PLR0911 — one for each kind of credential
        self, caller: Caller, kept: Caller = NOBODY
    ) -> Identity | None:
        """Return what :meth:`identify` does; None if that has to wait.

        ``kept`` is what the identity of a token keeps of its caller: see :func:`for_connection`.
        """
        self.origins.check(caller)
        if caller.ticket is not None and self._tickets is not None:
            return None
        if caller.bearer is None and self._cookie is not None:
            caller = self._with_cookie(caller, self._cookie)
        if caller.bearer is None or caller.digest is None or not (self._keyed or self._tokens):
            return self._keyless(_NO_KEY if self._keyed else _NO_KEYS, caller)
        found = self._find(caller.digest)
        if found is not None:
            return self._kept(found, caller)
        if self._tokens is None:
            return self._faulty(_UNKNOWN_KEY, caller)
        try:
            return self._with_token(self._tokens.verify(caller.bearer, caller.digest), caller, kept)
        except TokenError as error:
            looks_like_key = self._keyed and caller.bearer.count(".") != _DOTS_IN_A_TOKEN
            return self._faulty(_NEITHER if looks_like_key else _fault(error), caller)
        except KeyNeededError:
            return None

    def judge(self, identity: Identity) -> Identity:
        """Return the identity of an open connection under these settings.

        Raises :class:`ForbiddenError` as :meth:`identify` does, and :class:`UnauthorisedError` if the credential is no
        longer good.
        """
        if identity.rules is self:
            self.check(identity)
            return identity
        caller, forwarded = identity.caller, identity.forwarded
        self.origins.check(caller)
        headers = tuple([header for header in forwarded.headers if header[0] in self._forward])
        kept = forwarded._replace(headers=headers)
        return self._judged(identity)._replace(caller=caller, forwarded=kept, rules=self)

    @property
    def generation(self) -> int:
        """Differs after each change of the keys that verify tokens: what was identified before is identified anew."""
        return 0 if self._tokens is None else self._tokens.generation

    @property
    def asks(self) -> bool:
        """Whether an application may know callers that are not identified here."""
        return self._ask is not None

    async def admitted(self, question: Question | None, identity: Identity) -> Identity:
        """Return the identity as it is admitted: by its policy if there is no question, else by the application.

        Raises what asking raises.
        """
        if question is None:
            return identity
        assert self._ask is not None  # noqa: S101 — no policy asks without auth.ask
        answer = await self._ask(question, identity.forwarded)
        ends = [end for end in (identity.ends, answer.until) if end is not None]
        subject = answer.sub or identity.subject
        return identity._replace(
            fault=None,
            asked=True,
            name=name_of(subject) or identity.name,
            subject=subject,
            ends=min(ends, default=None),
        )

    async def issue_ticket(self, token: Token) -> Ticket:
        """Return a ticket for a token. Raises ``UnavailableError``."""
        assert self._tickets is not None  # noqa: S101 — where there are tokens, there are tickets
        return await self._tickets.issue({"claims": token.claims, "signer": token.signer.hex()}, token.expires)

    def check(self, identity: Identity) -> None:
        """Raise :class:`UnauthorisedError` if a token has expired or was taken back since its caller was identified."""
        if identity.token is not None and self._tokens is not None:
            try:
                self._tokens.check(identity.token)
            except TokenError as error:
                raise UnauthorisedError(_fault(error)) from None

    async def refresh(self, identity: Identity, bearer: str) -> Identity:
        """Return the identity of an open connection with a new token of the same subject.

        Raises :class:`UnauthorisedError` if the token is not good, or is another subject's.
        """
        caller = identity.caller._replace(bearer=bearer, digest=digest_of(bearer))
        renewed = await self.identify(caller)
        renewed.check()
        if renewed.token is None or identity.token is None or renewed.token.sub != identity.token.sub:
            msg = "a connection is refreshed by a token of the same subject ('sub') as the token that it began with"
            raise UnauthorisedError(msg)
        kept = identity.caller._replace(digest=caller.digest)
        return renewed._replace(caller=kept, forwarded=identity.forwarded)

    async def check_operator(self, request: HTTPConnection, what: str) -> None:
        """Raise unless the caller is an operator, as :meth:`identify` and :meth:`Identity.check_operator` do."""
        (await self.identify(see_request(request))).check_operator(f"only operators may see {what}")

    async def is_operator(self, request: HTTPConnection) -> bool:
        """Whether the caller is an operator."""
        try:
            await self.check_operator(request, "this")
        except AbideError:
            return False
        return True

    def _find(self, digest: bytes) -> Identity | None:
        found = None
        for known, identity in self._keyed:  # all of them, whichever it is
            if hmac.compare_digest(digest, known):
                found = identity
        return found

    async def _token_of(self, caller: Caller) -> Token:
        """Return the token of a caller that :meth:`authenticate` could not judge at once."""
        assert self._tokens is not None  # noqa: S101 — nothing else has to wait
        if caller.ticket is not None and self._tickets is not None:
            kept = await self._tickets.redeem(caller.ticket)
            return self._tokens.read_claims(kept["claims"], bytes.fromhex(kept["signer"]))
        if caller.bearer is None and self._cookie is not None:
            caller = self._with_cookie(caller, self._cookie)
        bearer = caller.bearer or ""
        return await self._tokens.verify_later(bearer, digest_of(bearer))

    def _judged(self, identity: Identity) -> Identity:
        caller = identity.caller
        if identity.token is not None:
            return self._with_token(self._judge(identity.token), caller)
        found = None if caller.digest is None else self._find(caller.digest)
        if found is not None:
            return found
        if identity.key is not None:
            raise UnauthorisedError(_UNKNOWN_KEY)
        if caller.digest is None or not (self._keyed or self._tokens):
            return self._keyless(_NO_KEY if self._keyed else _NO_KEYS, caller)
        if identity.fault is None and not identity.asked:
            raise UnauthorisedError(_UNKNOWN_KEY)
        return identity

    def _judge(self, token: Token) -> Token:
        if self._tokens is None:
            msg = "tokens are no longer configured (auth.tokens)"
            raise UnauthorisedError(msg)
        try:
            return self._tokens.judge(token)
        except TokenError as error:
            raise UnauthorisedError(_fault(error)) from None

    def _with_cookie(self, caller: Caller, name: str) -> Caller:
        """Return a caller whose credential is in a cookie, which its browser sends whichever page it shows."""
        value = _cookie(caller.headers.get("cookie", ""), name)
        if value is None:
            return caller
        if caller.is_cross_site or caller.origin == OPAQUE:  # any page can make a frame of the latter
            msg = "a page of another site caused this request, and the cookie came along: it is not used"
            raise ForbiddenError(msg)
        return caller._replace(bearer=value, digest=digest_of(value))

    def _with_token(self, token: Token, caller: Caller, kept: Caller = NOBODY) -> Identity:
        fields = (
            None, token, name_of(token.sub), self.operators is Access.ANYONE, False, None, _NO_KEY, bool(self._keyed),
            kept, _NOTHING, token.sub, token.ends, False, self,
        )  # fmt: skip
        # Each handshake with a token makes one: names of arguments would take more time than all else here.
        return self._kept(Identity._make(fields), caller)

    def _faulty(self, fault: str, caller: Caller) -> Identity:
        return self._kept(Identity(fault=fault, keys_exist=bool(self._keyed), rules=self), caller)

    def _keyless(self, reason: str, caller: Caller) -> Identity:
        is_operator = self.operators is Access.ANYONE or (self._local_may and is_local(caller, self.origins))
        identity = Identity(reason=reason, is_operator=is_operator, keys_exist=bool(self._keyed), rules=self)
        return self._kept(identity, caller)

    def _key_holder(self, key: Key, operators: Access | None) -> Identity:
        """Return the identity of a key's holder: an operator if everybody is, or if the key has no limits."""
        name = digest_of(key.secret.decode()).hex()[:_NAME_DIGITS] if key.name is None else f"key:{key.name}"
        is_operator = operators is Access.ANYONE or key.rights == EVERYTHING
        return Identity(key.rights, name=name, is_operator=is_operator, may_revoke=key.may_revoke, rules=self)

    def _kept(self, identity: Identity, caller: Caller) -> Identity:
        """Return an identity with as much of its caller as it is judged by later."""
        if not self._forward:
            return identity
        headers = tuple([(name, caller.headers[name]) for name in self._forward if name in caller.headers])
        return identity._replace(forwarded=Forwarded(headers, caller.origin, caller.client))


def name_of(sub: str | None) -> str:
    """Return the name of the identity of a subject."""
    return "" if sub is None else f"sub:{sub}"


def for_connection(identity: Identity, caller: Caller) -> Identity:
    """Return an identity that a connection keeps: with what its caller showed, but for secrets.

    The digest of a token is not needed to judge it again: callers with tokens may share what is kept of them.
    """
    return identity._replace(caller=without_secrets(caller))


def _cookie(header: str, name: str) -> str | None:
    """Return the value of the first cookie of this name: browsers send the one of the longest path first."""
    for pair in header.split(";"):
        found, equals, value = pair.strip().partition("=")
        if equals and found == name:
            return value.strip('"')
    return None


def _fault(error: TokenError) -> str:
    return f"the token sent is not good: {error}"
