"""What is said over NOTIFY."""

from hypothesis import given
from hypothesis import strategies as st

from app.bus.postgres import wire
from app.core.channel import MAX_NAME
from app.core.message import MAX_OFFSET, Batch, Message

TEXTS = st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), min_size=1)


@given(TEXTS)
def test_an_inline_notification_holds_its_messages(texts: list[str]) -> None:
    """Inline notification gives back channel, offsets, time and data, whatever line ends the data holds."""
    texts = [text + "\r\n\t\u2028 " for text in texts]
    body = wire.SEPARATOR.join(texts)
    batch = wire.inline(f"i news:a 41 {len(texts)} 1700000000000\n{body}").batch("epoch")
    first = 42 - len(texts)
    messages = tuple(Message(first + i, 1_700_000_000_000, text.encode()) for i, text in enumerate(texts))
    assert batch == Batch("news:a", "epoch", messages)


def test_a_doorbell_names_channels_and_heads() -> None:
    """Doorbell gives back each channel with its head."""
    assert wire.doorbell("d\na 1\nb:c.d-e_f 9007199254740991") == [("a", 1), ("b:c.d-e_f", MAX_OFFSET)]


def test_the_longest_notification_fits() -> None:
    """Notification with the longest name, the largest numbers and a full body is within PostgreSQL's 7999 bytes."""
    header = f"i {'x' * MAX_NAME} {MAX_OFFSET} {wire.MAX_INLINE_BODY} {10**13}\n"
    assert len(header) + wire.MAX_INLINE_BODY <= 7999
    assert len("d" + f"\n{'x' * MAX_NAME} {MAX_OFFSET}" * 28) <= 7999
