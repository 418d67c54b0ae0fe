"""A message between its publisher and the log: every way of publishing makes its record here, after the same checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from app.core import turns
from app.core.channel import Channel
from app.core.data import SMALL
from app.core.message import Record

_record: Callable[[Iterable[str | bytes | None]], Record] = partial(tuple.__new__, Record)
"""Makes a record of its parts without a call of Python's: each message needs one."""


class Draft(NamedTuple):
    """A message whose publisher is admitted, and which has yet to fit its channel."""

    channel: Channel
    name: str
    """The name that the message is published under; ``channel`` may be a family."""
    data: bytes
    """JSON text, UTF-8, checked by :mod:`app.core.data`."""
    key: str | None
    publisher: str

    @property
    def is_slow(self) -> bool:
        """Whether its check takes too long for the event loop: :meth:`read_record` does it elsewhere."""
        return self.channel.schema is not None and len(self.data) > SMALL

    def record(self) -> Record:
        """Return the message as it is published; raise the error if its channel refuses it.

        Raises :class:`~app.core.errors.TooLargeError` and :class:`~app.core.errors.SchemaError`.
        """
        return record_of(*self)

    async def read_record(self) -> Record:
        """Do what :meth:`record` does, for a message of any size."""
        return await turns.in_thread(self.record) if self.is_slow else self.record()


def record_of(channel: Channel, name: str, data: bytes, key: str | None, publisher: str) -> Record:
    """Return the record of a message with the parts of a :class:`Draft`, as :meth:`Draft.record` does."""
    if len(data) > channel.max_message_size:
        channel.check_size(data)  # which says so
    if channel.schema is not None:
        channel.check_schema(data)
    return _record((name, data, key, publisher))
