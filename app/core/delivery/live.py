"""Live subscriptions that share a write: they have one encoding, and writers of one class."""

from __future__ import annotations

from itertools import islice
from typing import Generic, TypeVar

from app.core.delivery.encodings import Encoding
from app.core.ports import Writer

MemberT = TypeVar("MemberT")
WriterT = TypeVar("WriterT", bound=Writer)


class LiveGroup(Generic[MemberT, WriterT]):
    """Writes each payload once to every member, in slices.

    ``WriterT`` is one class: it may know a faster way to write to many than one by one.
    """

    __slots__ = ("_rest", "encoding", "members", "writer_class")

    def __init__(self, encoding: Encoding, writer_class: type[WriterT]) -> None:
        self.encoding = encoding
        self.writer_class = writer_class
        self.members: dict[MemberT, WriterT] = {}
        self._rest: dict[MemberT, WriterT] = {}
        """Members that the payload has not been written to yet."""

    def remove(self, member: MemberT) -> None:
        """Write nothing more to a member."""
        del self.members[member]
        self._rest.pop(member, None)

    def begin(self) -> None:
        """Begin with a payload: nobody has it yet."""
        self._rest = self.members.copy()

    def is_waiting(self, member: MemberT) -> bool:
        """Whether the payload has not been written to this member yet."""
        return member in self._rest

    def is_done(self) -> bool:
        """Whether every member has the payload."""
        return not self._rest

    def write(self, payload: bytes, limit: int) -> int:
        """Write the payload to at most so many of those that wait for it; return to how many.

        They count as sent before the first is written to: a write may make a member full, and leave.
        """
        if len(self._rest) > limit:
            writers = [self._rest.pop(member) for member in list(islice(self._rest, limit))]
        else:
            writers = list(self._rest.values())
            self._rest = {}
        if writers:
            self.writer_class.write_all(writers, payload)
        return len(writers)
