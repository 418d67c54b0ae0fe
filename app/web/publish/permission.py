"""What a caller may publish: decided by the head of a request, before its body is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from app.core.channel import Channel, Registry
from app.core.rights.policy import ANONYMOUS, Identity, Question
from app.web.publish.push_head import PushHead

_MOST_NAMES = 100


class Sender(NamedTuple):
    """Where one push comes from."""

    peer: str | None
    """The client's address; None if unknown, or if it may be a proxy's."""
    address: str | None
    """The client's address; None if unknown."""
    request_id: str | None = None
    """For the log; None if the logging context has it."""


@dataclass(frozen=True, slots=True, eq=False)
class Permission:
    """What the caller of a request head may publish, by the settings in force."""

    head: PushHead
    """As it is seen from where the request comes from."""
    identity: Identity | None
    """None if it takes time to tell."""
    question: Question | None
    """What the application must be asked first."""
    channel: Channel | None
    """The channel in the path; None if the body names the channel."""
    limit: int
    """The most bytes of the body."""
    generation: int | None
    """Of the authenticator when a token was verified, which has an end, too; None where there is no token."""
    _names: set[str] = field(default_factory=set)
    """Names that the caller may publish to, and families of which it may publish to every name: some of them."""

    @property
    def lasts(self) -> bool:
        """Whether it is the same for every push with this head, under the same settings and of the same generation.

        Only the end of a token can end it sooner: :meth:`~app.web.edge.auth.Authenticator.check` tells.
        """
        return self.identity is not None and self.identity.fault is None and self.question is None

    def channel_named(self, name: str, registry: Registry) -> tuple[Channel, Question | None]:
        """Return the channel that an envelope names, and what the application must be asked about it.

        Raises the error that refuses the push.
        """
        channel = registry.find(name)
        if channel.name in self._names or name in self._names:
            return channel, None
        identity = self.identity or ANONYMOUS
        question = channel.check_publish(name, identity)
        if question is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            self._names.add(channel.name if channel.admits_to_all(identity) else name)
        return channel, question

    def admitted(self, identity: Identity) -> Permission:
        """Return the permission of a caller about whom nobody must be asked any more."""
        return replace(self, identity=identity, question=None, _names=set())
