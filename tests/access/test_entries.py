"""The entries of ``$access``."""

import json

import pytest

from app.access.entries import Disconnection, Revocation, read, record

ENTRIES = (
    Revocation("42", 1790000000.25),
    Revocation("auth0|65f", 0.0),
    Revocation(jti="9f"),
    Disconnection("42"),
    Disconnection("mail@example.com", "chat.7"),
)

BAD = {
    "nothing": "",
    "no JSON": "{",
    "no object": '["revoke"]',
    "no members": "{}",
    "a form of a later version": '{"pause": {"sub": "42"}}',
    "a number for an object": '{"revoke": 1}',
    "no subject": '{"revoke": {"before": 1}}',
    "no time": '{"revoke": {"sub": "42"}}',
    "a number for a subject": '{"revoke": {"sub": 42, "before": 1}}',
    "an empty subject": '{"revoke": {"sub": "", "before": 1}}',
    "a subject that is too long": json.dumps({"revoke": {"sub": "x" * 256, "before": 1}}),
    "a text for a time": '{"revoke": {"sub": "42", "before": "1"}}',
    "a boolean for a time": '{"revoke": {"sub": "42", "before": true}}',
    "no finite time": '{"revoke": {"sub": "42", "before": NaN}}',
    "null for an id": '{"revoke": {"jti": null}}',
    "a list for a channel": '{"disconnect": {"sub": "42", "channel": []}}',
    "nesting without end": "[" * 100_000,
}


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_an_entry_is_read_as_it_was_written(entry: Revocation | Disconnection) -> None:
    """Entry comes back from the log as it went in."""
    assert read(record(entry).data) == entry


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_entry_is_refused(case: str) -> None:
    """Text that is no entry raises ValueError, which says why."""
    with pytest.raises(ValueError, match=r"."):
        read(BAD[case].encode())
