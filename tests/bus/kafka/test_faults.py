"""Kafka's brokers when they are away, stalled, cut off or started again: what was acknowledged is there, once."""

import asyncio
import ssl
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.bus.follower import Follower
from app.bus.kafka import Declared, KafkaBackend, consumer, parse
from app.bus.kafka.brokers.broker_errors import WORDING, AtBrokerError
from app.bus.kafka.brokers.cluster import Cluster
from app.bus.kafka.consumer import Consumer
from app.bus.kafka.log import Log
from app.bus.kafka.topics import Topics
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.core.channel import ACCESS
from app.core.errors import OutcomeUnknownError, TooLargeError, UnavailableError
from app.core.message import Message, Published, Record
from tests.bus.kafka.conftest import Relayed
from tests.support.certificate import certificate
from tests.support.kafka import KafkaWorker, Others, kafka_worker
from tests.support.readers import ALL, Reader, healthy, says, until
from tests.support.tansu import TansuServer


async def insist(worker: KafkaWorker, channel: str, text: str, key: str) -> Published:
    """Publish a message with its key until it is acknowledged."""
    while True:
        (outcome,) = await worker.bus.publish([Record(channel, text.encode(), key)])
        if isinstance(outcome, Published):
            return outcome
        assert isinstance(outcome, UnavailableError), repr(outcome)


async def test_a_consumer_whose_session_fails_as_it_is_ended_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Consumer that is cancelled while one of its session's tasks fails has no other session."""
    monkeypatch.setattr(consumer, "_HEARTBEAT_SECONDS", -1.0)
    probing = asyncio.Event()

    async def probe() -> None:
        probing.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError

    async def fetch(_: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        return {}

    cluster = Cluster(parse(url))
    topics = Topics(cluster, "", lambda _: Declared(), lambda _: ALL)
    log, said = Log(cluster, topics, time.time), Outcomes("not connected yet", WORDING)
    running = asyncio.create_task(Consumer("here", cluster, topics, log, Follower(fetch), probe, said).run())
    await probing.wait()
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    await cluster.close()
    assert done == {running}


async def test_no_cut_connection_loses_or_doubles_a_message(relayed: Relayed) -> None:
    """Workers store each message with a key once, and hand out all in order, through forty cut connections."""
    async with kafka_worker(relayed.url) as one, kafka_worker(relayed.url) as other:
        readers = [await one.follow("a"), await other.follow("a")]

        async def publish(worker: KafkaWorker, name: str) -> None:
            for number in range(60):
                await insist(worker, "a", f'"{name} {number}"', f"{name}-{number}")

        async def cut() -> None:
            for _ in range(10):
                await asyncio.sleep(0.05)
                relayed.relay.cut()

        publishers = [publish(worker, f"{index} {part}") for index, worker in enumerate((one, other)) for part in "xy"]
        await asyncio.gather(cut(), *publishers)
        texts = await one.texts("a")
        assert Counter(texts).most_common(1)[0][1] == 1
        assert len(texts) == 4 * 60
        for reader in readers:
            await reader.until(len(texts))
            assert [data.decode() for data in reader.log] == texts
            assert not reader.faults
            assert not reader.turns


async def test_a_message_without_a_key_is_never_doubled_by_a_cut_connection(relayed: Relayed) -> None:
    """Worker says of each message without a key that it is stored, is not, or may be: and that is so."""
    async with kafka_worker(relayed.url) as worker:
        outcomes: dict[str, object] = {}

        async def publish(part: int) -> None:
            for number in range(25):
                text = f"{part}{number:03}"
                (outcomes[text],) = await worker.publish("a", text)

        publishing = [asyncio.create_task(publish(part)) for part in range(1, 4)]
        while not all(task.done() for task in publishing):
            await asyncio.sleep(0.05)
            relayed.relay.cut()
        stored = Counter(await worker.texts("a"))
        for text, outcome in outcomes.items():
            assert stored[text] == isinstance(outcome, Published) or isinstance(outcome, OutcomeUnknownError)
            assert stored[text] <= 1


async def test_a_broker_that_lost_its_topics_begins_another_epoch(relayed: Relayed) -> None:
    """Worker tells subscribers that a broker without a disk has lost everything, before the first new message."""
    async with kafka_worker(relayed.url) as worker:
        (reader, access) = [await worker.follow(channel) for channel in ("a", ACCESS)]
        (before, *_) = await worker.publish("a", "1", "2", "3")
        await worker.publish(ACCESS, "1")
        await reader.until(3)
        await access.until(1)
        relayed.broker.restart()
        after = await insist(worker, "a", "4", "k")
        assert isinstance(before, Published)
        assert after.position.offset == 1
        assert after.position.epoch != before.position.epoch
        await until(lambda: reader.log == [b"4"], "the new message alone")
        assert reader.turns[0] == (3, 0)
        assert not reader.faults
        await until(lambda: access.turns, "what was taken back is lost, too")


@pytest.mark.parametrize("is_family", [False, True])
async def test_a_gap_after_a_lost_topic_names_the_position_of_the_next_message(
    relayed: Relayed, *, is_family: bool
) -> None:
    """Worker makes the lost topic of a channel that is followed, so that the gap's positions are the new topic's."""
    async with kafka_worker(relayed.url, declared=lambda _: Declared(is_family=is_family)) as worker:
        reader = await worker.follow("a")
        await worker.publish("a", "1", "2", "3")
        await reader.until(3)
        relayed.broker.restart()
        await until(lambda: reader.turns, "the loss is told")
        await insist(worker, "a", "4", "k")
        await until(lambda: reader.log == [b"4"], "the new message alone")
        assert reader.turns[-1] == (3, 0), "nothing changes again after it, with the next message"


async def test_a_deleted_topic_is_an_epoch_of_its_own(relayed: Relayed) -> None:
    """Worker notices within seconds that a topic was deleted and made anew under its connections."""
    async with kafka_worker(relayed.url) as worker:
        reader = await worker.follow("a")
        await worker.publish("a", "1", "2")
        await reader.until(2)
        await Others(relayed.broker.port).delete("live.a")
        await until(lambda: reader.last == 0, "the loss is noticed")
        (outcome,) = await worker.publish("a", "3")
        assert isinstance(outcome, Published)
        await until(lambda: reader.log == [b"3"], "the new message alone")


async def test_a_stalled_broker_is_named_and_nothing_is_said_to_be_stored(relayed: Relayed) -> None:
    """Worker keeps its deadline while the broker is stalled, is not ready, and goes on when it is there again."""
    async with kafka_worker(relayed.url) as worker:
        reader = await worker.follow("a")
        await worker.publish("a", "1")
        relayed.broker.pause()
        began = time.monotonic()
        (outcome,) = await worker.backend.append([Record("a", b"2")], began + 0.5)
        assert isinstance(outcome, UnavailableError)
        assert time.monotonic() - began < 3
        await says(worker.backend, f"{relayed.relay.port}: no answer in time")
        relayed.broker.resume()
        await healthy(worker.backend)
        await insist(worker, "a", "3", "k")
        await until(lambda: reader.log[-1:] == [b"3"], "the next message")
        assert (await worker.texts("a"))[0] == "1"
        assert [data.decode() for data in reader.log] == await worker.texts("a")


async def test_a_broker_that_is_away_at_start_is_waited_for() -> None:
    """Worker says where nothing listens, refuses to publish, and is ready by itself once the broker is there."""
    with TansuServer() as broker:
        broker.stop()
        async with kafka_worker(broker.url(), ready=False) as worker:
            assert await says(worker.backend, "nothing listens there") == (
                f"127.0.0.1:{broker.port}: nothing listens there: check the host and port in the URL, and that the "
                "broker runs"
            )
            broker.start()
            await healthy(worker.backend)
            (outcome,) = await worker.publish("a", "1")
            assert isinstance(outcome, Published)


async def test_a_message_that_a_topic_does_not_take_is_too_large(relayed: Relayed) -> None:
    """Worker refuses a message alone that is larger than its topic takes, and stores those beside it."""
    genuine = b"\x00\x00" + b"\x00" * 8 + b"\xff" * 8  # of an answer: no error, offset 0, no time
    async with kafka_worker(relayed.url) as worker:
        await worker.follow("a")
        relayed.relay.forge(genuine, b"\x00\x0a" + genuine[2:])
        outcomes = await worker.publish("a", "1", "2")
        relayed.relay.heal()
        # The broker behind the relay did store each batch, so only the first one is at offset 0.
        assert isinstance(outcomes[0], Published)
        (alone,) = await worker.publish("b", "1")
        assert isinstance(alone, Published)
        relayed.relay.forge(genuine, b"\x00\x0a" + genuine[2:])
        (refused,) = await worker.publish("c", "1")
        assert isinstance(refused, TooLargeError)
        assert "max.message.bytes" in str(refused)


async def test_a_burst_arrives_whole_at_another_worker(url: str) -> None:
    """Workers hand out ten thousand messages of one moment in their order, each once."""
    async with kafka_worker(url) as one, kafka_worker(url) as other:
        reader = await other.follow("a")
        outcomes = await asyncio.gather(
            *(one.publish("a", *map(str, range(n, n + 100))) for n in range(0, 10_000, 100))
        )
        assert all(isinstance(outcome, Published) for some in outcomes for outcome in some)
        assert await reader.until(10_000) == [str(number).encode() for number in range(10_000)]
        assert not reader.faults


async def test_who_follows_and_leaves_again_and_again_misses_nothing(url: str) -> None:
    """Worker hands out a channel from the position that it answered, however often it was followed and left before."""
    async with kafka_worker(url) as worker:
        steady = await worker.follow("steady")

        async def publish() -> None:
            for number in range(150):
                await worker.publish("a", str(number))
                await worker.publish("steady", str(number))

        publishing = asyncio.create_task(publish())
        while not publishing.done():
            reader = Reader("a", "a")
            await worker.bus.follow("a", reader)
            await asyncio.sleep(0.01)
            assert not reader.faults
            await worker.bus.unfollow("a")
        last = await worker.follow("a")
        await worker.publish("a", '"over"')
        await last.until(1)
        assert last.log[-1] == b'"over"'
        assert await steady.until(150) == [str(number).encode() for number in range(150)]
        assert not steady.faults


@pytest.mark.parametrize(
    ("user", "mechanism", "why"),
    [
        ("me:hunter2@", "SCRAM-SHA-512", "the login was refused: correct the user, the password or kafka.sasl"),
        ("", "PLAIN", "the connection was closed: the port may want TLS (kafkas://), or a login"),
    ],
)
async def test_a_refused_login_is_one_line_without_the_password(user: str, mechanism: str, why: str) -> None:
    """Worker says that a broker refuses its login, and nothing of the password."""
    with TansuServer(authentication=True) as broker:
        url = broker.url().replace("://", f"://{user}")
        backend = KafkaBackend(parse(url, mechanism=mechanism), retention=lambda _: ALL)
        with capture_logs() as log:
            await backend.connect()
            assert await says(backend, why) == f"127.0.0.1:{broker.port}: {why}"
            await backend.disconnect()
        assert [line["event"] for line in log] == ["not_listening"]
        assert "hunter2" not in f"{log} {backend!r} {parse(url)!r}"


async def test_brokers_are_reached_by_tls(broker: TansuServer, tmp_path: Path) -> None:
    """Worker trusts the authority that it is told of, by the URL or the key, and says so of another one."""
    file = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    links: set[asyncio.Task[None]] = set()

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", broker.port)

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        links.update(asyncio.create_task(pass_on(*ends)) for ends in ((reader, there), (back, writer)))

    async with await asyncio.start_server(link, "localhost", 0, ssl=context) as relay:
        port = relay.sockets[0].getsockname()[1]
        first = parse(f"kafkas://localhost:{port}/tls.", ca=str(file))
        assert parse(f"kafka://localhost:{port}/tls.", tls=True, ca=str(file)) == first
        trusting, doubting = Cluster(first), Cluster(replace(first, ca=None))
        assert (await trusting.topics([])).brokers
        with pytest.raises(
            AtBrokerError, match=r"the certificate is not trusted: name its authority's file in kafka.ca"
        ):
            await doubting.topics([])
        with pytest.raises(UnavailableError, match=r"kafka.ca: /nowhere holds no certificate that can be read"):
            await Cluster(replace(first, ca="/nowhere")).topics([])
        with pytest.raises(AtBrokerError, match=r"no answer in time.*a port without TLS takes kafka:// only"):
            await Cluster(replace(first, servers=(("127.0.0.1", broker.port),))).topics([])
        await trusting.close()
        await asyncio.wait(links)
