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
    _names: dict[str, Channel] = field(default_factory=dict)
    """Channels of envelopes that the caller may publish to, by the names in them: some of them."""
    _families: set[str] = field(default_factory=set)
    """Declared names of channels to every name of which the caller may publish: some of them."""

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
        channel = self._names.get(name)
        if channel is not None:
            return channel, None
        channel = registry.find(name)
        if channel.name not in self._families:
            identity = self.identity or ANONYMOUS
            question = channel.check_publish(name, identity)
            if question is not None:
                return channel, question
            if channel.admits_to_all(identity):
                _make_room(self._families)
                self._families.add(channel.name)
        _make_room(self._names)
        self._names[name] = channel
        return channel, None

    def admitted(self, identity: Identity) -> Permission:
        """Return the permission of a caller about whom nobody must be asked any more."""
        return replace(self, identity=identity, question=None, _names={}, _families=set())


def _make_room(names: dict[str, Channel] | set[str]) -> None:
    if len(names) >= _MOST_NAMES:
        names.clear()
