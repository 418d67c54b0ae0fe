"""What is said over NOTIFY."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from app.bus import bodies
from app.bus.postgres.append.commit import MAX_INLINE_BODY
from app.bus.postgres.listen import notifications
from app.bus.postgres.listen.notifications import Seal
from app.core.channel import MAX_NAME
from app.core.message import MAX_OFFSET, Message

TEXTS = st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), min_size=1)


INNER_KEY, OUTER_KEY = (bytes(byte ^ pad for byte in range(64)) for pad in (0x36, 0x5C))


def sealed(said: str) -> str:
    """Return the notification of a commit, as SQL makes it."""
    inner = hashlib.sha256(INNER_KEY + b"7 " + said.encode()).digest()
    return f"e {hashlib.sha256(OUTER_KEY + inner).hexdigest()[:32]} {said}"


@given(TEXTS)
def test_an_inline_notification_holds_its_messages(texts: list[str]) -> None:
    """Inline notification gives back channel, offsets, time and data, whatever line ends the data holds."""
    texts = [text + "\r\n\t\u2028 " for text in texts]
    heard = notifications.inline(
        sealed(f"3f2a90b1 news:a 41 {len(texts)} 1700000000000\n{bodies.SEPARATOR.join(texts)}")
    )
    assert heard is not None
    assert Seal(INNER_KEY, 7).proves(heard)
    first = 42 - len(texts)
    messages = tuple(Message(first + i, 1_700_000_000_000, text.encode()) for i, text in enumerate(texts))
    assert (heard.epoch, heard.channel, heard.messages()) == ("3f2a90b1", "news:a", messages)


@given(st.integers(0, 100), st.characters(codec="ascii"))
def test_the_seal_is_of_every_character(at: int, character: str) -> None:
    """Inline notification with any character changed is not proved, or not read."""
    payload = sealed("3f2a90b1 news 41 1 1700000000000\n" + "é" * 50)
    forged = payload[:at] + character + payload[at + 1 :]
    heard = notifications.inline(forged)
    assert forged == payload or heard is None or not Seal(INNER_KEY, 7).proves(heard)


@given(st.text() | st.from_regex(r"[edbh]( |\n)?[0-9a-z. \n]{0,60}") | st.from_regex(r"d(\n[a-z]+ [0-9]+)+"))
def test_anything_can_be_heard(payload: str) -> None:
    """Notification of whatever form is read as far as it can be, and raises nothing."""
    assert notifications.inline(payload) is None or payload.startswith("e ")
    assert all(0 <= head <= MAX_OFFSET for _, head in notifications.doorbell(payload))


def test_a_doorbell_names_channels_and_heads() -> None:
    """Doorbell gives back each channel with its head, and leaves out lines that are none."""
    assert notifications.doorbell("d\na 1\nb:c.d-e_f 9007199254740991") == [("a", 1), ("b:c.d-e_f", MAX_OFFSET)]
    assert notifications.doorbell(f"d\na\na -1\na ٣\na 9007199254740992\na {'9' * 5000}\nb 2") == [("b", 2)]


def test_a_doorbell_is_read_as_far_as_a_commit_writes_it() -> None:
    """Doorbell with more lines than a commit's is read no further."""
    assert notifications.doorbell("d" + "\na 1" * 28 + "\nb 2" * 1000) == [("a", 1)] * 28


def test_the_longest_notification_fits() -> None:
    """Notification with the longest name, the largest numbers and a full body is within PostgreSQL's 7999 bytes."""
    header = f"e {'0' * 32} {'0' * 8} {'x' * MAX_NAME} {MAX_OFFSET} {MAX_INLINE_BODY} {10**13}\n"
    assert notifications.inline(header) is not None
    assert len(header) + MAX_INLINE_BODY <= 7999
    assert len("d" + f"\n{'x' * MAX_NAME} {MAX_OFFSET}" * 28) <= 7999
