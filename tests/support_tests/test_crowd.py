"""The report of a run that went wrong says what is needed, and no more."""

from __future__ import annotations

from tests.support.crowd import Crowd
from tests.support.subscribers import V1, Plain
from tests.support.verdict import Ledger


def test_a_crowd_counts_what_happened_and_tells_what_went_wrong() -> None:
    """Crowd's report has the faults, the schedule, and the timeline of those whom the faults concern."""
    crowd = Crowd("http://127.0.0.1:1", Ledger({}))
    well, ill, plain = crowd.subscribers = [
        V1("", "news", timeline=crowd.timeline, name="well-"),
        V1("", "news", timeline=crowd.timeline, name="ill-"),
        Plain("", "news", timeline=crowd.timeline),
    ]
    for offset, data in enumerate(("one", "two", "three"), 1):
        crowd.ledger.doubt("news", data)
        crowd.ledger.acknowledge("news", f"e:{offset}", data, 0)
    for subscriber in (well, ill):
        log = subscriber.logs["news"]
        log.began("e:0", resumed=False)
        log.got("e:1", "one")
        log.cut()
        log.began("e:1", resumed=True)
        crowd.timeline.note("lost its connection", by=subscriber.name)
    well.logs["news"].got("e:2", "two")
    well.logs["news"].got("e:3", "three")
    ill.logs["news"].got("e:3", "three")
    plain.logs["news"].got(None, "three")
    plain.logs["news"].cut()
    crowd.timeline.note("a worker is killed")

    assert crowd.faults() == ["ill-abide.v1 on news: e:3 ('three') came after e:1"]
    assert str(crowd.tally()) == ("3 messages acknowledged and 0 in doubt, 6 deliveries, 2 resumes, 0 gaps told")
    seed, fault, _, step, _, lost, killed = crowd.report("seed 7", crowd.faults(), [("kill", 1)]).splitlines()
    assert (seed, fault, step) == ("seed 7", crowd.faults()[0], "('kill', 1)")
    assert lost.endswith("ill-abide.v1 lost its connection")
    assert killed.endswith("a worker is killed")
