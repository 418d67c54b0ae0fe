"""Policies, and which channel a name stands for."""

import pytest

from app.core.channel import Channel, HistoryWindow, Registry
from app.core.errors import ForbiddenError, TooLargeError, UnauthorisedError, UnknownChannelError
from app.core.rights.policy import ANONYMOUS, Access, Identity, Policy
from app.core.rights.token import EVERYTHING

KEYED = Identity(EVERYTHING)
OPERATOR = Identity(is_operator=True)
DEFAULTS = Channel("", history=HistoryWindow(size=7, ttl=70))


def test_anyone_may_publish_where_the_policy_says_so() -> None:
    """Channel with publish: anyone takes messages from a stranger."""
    Channel("c", publish=Policy((Access.ANYONE,))).check_publish("c", ANONYMOUS)


def test_a_key_opens_a_keyed_channel_and_nothing_else_does() -> None:
    """Channel with publish: key asks a stranger for a key, and says why the one sent will not do."""
    Channel("c", publish=Policy((Access.KEY,))).check_publish("c", KEYED)
    with pytest.raises(UnauthorisedError, match="a reason"):
        Channel("c", publish=Policy((Access.KEY,))).check_publish("c", Identity(reason="a reason"))


def test_nobody_may_publish_where_nobody_is_said() -> None:
    """Channel with publish: nobody refuses the holder of a key too."""
    with pytest.raises(ForbiddenError):
        Channel("c", publish=Policy((Access.NOBODY,))).check_publish("c", KEYED)


def test_a_subscriber_needs_both_permissions_to_publish() -> None:
    """Channel lets a subscriber publish only with client_publish and the publish policy's consent."""
    with pytest.raises(ForbiddenError, match="client_publish"):
        Channel("c", publish=Policy((Access.ANYONE,))).check_client_publish("c", KEYED)
    with pytest.raises(UnauthorisedError):
        Channel("c", publish=Policy((Access.KEY,)), client_publish=True).check_client_publish("c", ANONYMOUS)
    Channel("c", publish=Policy((Access.KEY,)), client_publish=True).check_client_publish("c", KEYED)


@pytest.mark.parametrize(
    ("identity", "most"),
    [
        (ANONYMOUS, {"a": 1, "k": 0, "o": 0, "n": 0}),
        (KEYED, {"a": 1, "k": 2, "o": 0, "n": 0}),
        (OPERATOR, {"a": 1, "k": 0, "o": 3, "n": 0}),
        (Identity(EVERYTHING, is_operator=True), {"a": 1, "k": 2, "o": 3, "n": 0}),
    ],
)
def test_the_largest_message_depends_on_who_sends_it(identity: Identity, most: dict[str, int]) -> None:
    """Channel takes nothing by sending of who may not publish to it; the registry says the most of all channels."""
    accesses = {"a": Access.ANYONE, "k": Access.KEY, "o": Access.OPERATORS, "n": Access.NOBODY}
    channels = tuple(
        Channel(name, publish=Policy((access,)), client_publish=True, max_message_size=size)
        for size, (name, access) in enumerate(accesses.items(), start=1)
    )
    registry = Registry((*channels, Channel("silent", publish=Policy((Access.ANYONE,)), max_message_size=9)), DEFAULTS)
    assert registry.find("silent").max_publish_size(identity) == 0
    for name, size in most.items():
        assert registry.find(name).max_publish_size(identity) == size
    assert registry.max_publish_size(identity) == max(most.values())


def test_size_is_counted_to_the_byte() -> None:
    """Channel takes a message of exactly its limit, and not one byte more."""
    channel = Channel("c", max_message_size=4)
    channel.check_size(b"1234")
    with pytest.raises(TooLargeError, match="max_message_size"):
        channel.check_size(b"12345")


def test_a_plain_channel_goes_before_a_family() -> None:
    """Registry prefers the exact name, then the family with the longest prefix."""
    plain, short, long = Channel("chat.all"), Channel("chat.{room}"), Channel("chat.a{room}")
    registry = Registry((short, long, plain), DEFAULTS)
    assert registry.find("chat.all") is plain
    assert registry.find("chat.abc") is long
    assert registry.find("chat.b") is short


@pytest.mark.parametrize(
    "name", ["chat.", "chat", "xchat.a", "chat.a*b", "chat.a/b", "chat.é", "chat." + "a" * 129, "chat.{room}", ""]
)
def test_a_name_outside_a_family_is_unknown(name: str) -> None:
    """Registry takes one parameter of 1 to 128 letters, digits, _ and - for a family, nothing else."""
    with pytest.raises(UnknownChannelError):
        Registry((Channel("chat.{room}"),), DEFAULTS).find(name)


def test_a_family_may_end_in_a_literal() -> None:
    """Registry matches what stands after a family's parameter too."""
    family = Channel("game.{id}.score")
    registry = Registry((family,), DEFAULTS)
    assert registry.find("game.7.score") is family
    assert registry.get("game.7.scores") is None


def test_an_undeclared_channel_is_kept_under_the_defaults() -> None:
    """Registry answers the defaults' history for a name that it does not know."""
    registry = Registry((Channel("c", history=HistoryWindow(1, 2)),), DEFAULTS)
    assert registry.history("c") == HistoryWindow(1, 2)
    assert registry.history("other") == HistoryWindow(7, 70)


def test_operators_may_publish_where_only_they_may() -> None:
    """Channel for operators takes messages from them alone, and says whether a key would help."""
    channel = Channel("c", publish=Policy((Access.OPERATORS,)))
    channel.check_publish("c", OPERATOR)
    with pytest.raises(UnauthorisedError, match=r"only operators .* no key was sent"):
        channel.check_publish("c", ANONYMOUS)
    with pytest.raises(ForbiddenError, match=r"set auth\.keys"):
        channel.check_publish("c", Identity(reason="no keys are configured", keys_exist=False))


class Name(str):
    """A name that counts how often somebody looks at its end, as a search for its family does."""

    __slots__ = ()
    looks = 0

    def endswith(self, end: str) -> bool:  # type: ignore[override]
        """Count, and tell."""
        Name.looks += 1
        return super().endswith(end)


def test_the_family_of_each_of_many_names_is_searched_once() -> None:
    """Registry remembers the families of twenty thousand names, so that their messages in turns cost no search."""
    registry = Registry((Channel("chat.{room}"),), Channel(""))
    names = [Name(f"chat.{number}") for number in range(20_000)]
    for _ in range(2):
        for name in names:
            assert registry.find(name).name == "chat.{room}"
    assert Name.looks == len(names)
