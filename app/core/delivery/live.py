"""Live subscriptions that are written to together: they have one encoding, and writers of one class."""

from __future__ import annotations

from itertools import islice
from typing import Generic, TypeVar

from app.core.delivery.encodings import Encoding
from app.core.ports import Writer

MemberT = TypeVar("MemberT")
WriterT = TypeVar("WriterT", bound=Writer)


class LiveGroup(Generic[MemberT, WriterT]):
    """Writes each payload to every member once, in slices.

    All writers are of the class ``WriterT``, which may know a faster way to write to many than one by one.
    """

    __slots__ = ("_rest", "encoding", "members", "writer_class")

    def __init__(self, encoding: Encoding, writer_class: type[WriterT]) -> None:
        self.encoding = encoding
        self.writer_class = writer_class
        self.members: dict[MemberT, WriterT] = {}
        self._rest: dict[MemberT, WriterT] = {}
        """The members that have not been written the payload yet."""

    def takes(self, encoding: Encoding, writer: Writer) -> bool:
        """Whether a subscription with this encoding and this writer belongs to the group."""
        return encoding is self.encoding and type(writer) is self.writer_class

    def remove(self, member: MemberT) -> None:
        """Write nothing more to a member."""
        del self.members[member]
        self._rest.pop(member, None)

    def begin(self) -> None:
        """Begin a payload, which no member has been written yet."""
        self._rest = self.members.copy()

    def is_waiting(self, member: MemberT) -> bool:
        """Whether this member has not been written the payload yet."""
        return member in self._rest

    def is_done(self) -> bool:
        """Whether every member has been written the payload."""
        return not self._rest

    def write_to_all(self, payload: bytes) -> int:
        """Write the payload to every member; return to how many."""
        writers = list(self.members.values())
        if payload:
            self.writer_class.write_all(writers, payload)
        return len(writers)

    def write(self, payload: bytes, limit: int) -> int:
        """Write the payload to at most ``limit`` of the members that wait for it; return to how many.

        They no longer wait when the first is written to: a write may fill a member's buffer, and then it leaves.
        """
        if len(self._rest) > limit:
            writers = [self._rest.pop(member) for member in list(islice(self._rest, limit))]
        else:
            writers = list(self._rest.values())
            self._rest = {}
        if writers and payload:
            self.writer_class.write_all(writers, payload)
        return len(writers)
