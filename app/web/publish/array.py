"""Arrays of envelopes: many messages in one push."""

from __future__ import annotations

import re
from codecs import utf_8_decode

from app.core import data
from app.core.errors import AbideError, bare
from app.core.turns import Pace, Steps
from app.web.publish.body import BEFORE, BLANKS, MEMBERS, Envelope, envelope_of

MAX_ITEMS = 1000
"""The most messages in one ``POST /push``."""

# What most items have behind their message: perhaps a key without escapes, and the end of the item.
_AFTER = re.compile(
    rf'{BLANKS}(?:,{BLANKS}"key"{BLANKS}:{BLANKS}"([!#-\[\]-~]{{1,255}}+)"{BLANKS})?+\}}{BLANKS}([,\]])'
)

Item = Envelope | AbideError
"""The envelope of an item, or the error that refuses it."""


def walk_envelopes(content: bytes, pace: Pace) -> Steps[list[Item]]:
    """Return what each item of a JSON array is, in steps of ``pace``.

    Raises :class:`~app.core.errors.MalformedError` and :class:`~app.core.errors.TooLargeError`, as
    :func:`app.core.data.walk_items` does.
    """
    found = yield from _walk_plain(content, pace)
    if found is not None:
        return found
    found = []
    for place in (yield from data.walk_items(content, MAX_ITEMS, pace)):
        try:
            found.append(envelope_of((yield from data.walk_members(content[place], MEMBERS, pace))))
        except AbideError as error:
            found.append(bare(error))
    return found


def _walk_plain(content: bytes, pace: Pace) -> Steps[list[Item] | None]:
    """Do what :func:`walk_envelopes` does, for most arrays; return None for one that needs a closer look."""
    found: list[Item] = []
    begin, goes_on = content.index(b"[") + 1, True
    while goes_on:
        end = begin + data.SMALL
        try:
            text, _ = utf_8_decode(content[begin:end], "strict", end >= len(content))
        except UnicodeDecodeError:
            return None
        taken, goes_on = _take_plain(text, found)
        if not taken or len(found) > MAX_ITEMS:
            return None
        begin += taken if text.isascii() else len(text[:taken].encode())
        yield from pace.pause()
    return None if content[begin:].strip(b" \t\n\r") else found


def _take_plain(text: str, found: list[Item]) -> tuple[int, bool]:
    """Take the whole items that a text begins with; return where the rest begins, and whether the array goes on."""
    begin = 0
    while before := BEFORE.match(text, begin):
        message = before.end()
        end = data.end_of_value(text, message)
        after = None if end is None else _AFTER.match(text, end)
        if after is None:
            break
        found.append((before[1], text[message:end].encode(), after[1]))
        begin = after.end()
        if after[2] == "]":
            return begin, False
    return begin, True
