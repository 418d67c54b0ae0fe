"""The small protocols through which the rooms reach each other, so that no room needs to know the next."""

from app.core.ports.connections import FANOUT, Handover, Heartbeat, Peer, ResponseHandover, Writer
from app.core.ports.limiting import LIMITS, InForce, Limits, client_of, unlimited
from app.core.ports.messaging import Outcome, Publisher, Sink, Source, Submitted
from app.core.ports.metering import METER, UNMETERED, Meter
from app.core.ports.serving import DIRECT, DRAIN, INTAKE, UNBOUNDED, Answer, Direct, Drain, Intake, Reply

__all__ = [
    "DIRECT",
    "DRAIN",
    "FANOUT",
    "INTAKE",
    "LIMITS",
    "METER",
    "UNBOUNDED",
    "UNMETERED",
    "Answer",
    "Direct",
    "Drain",
    "Handover",
    "Heartbeat",
    "InForce",
    "Intake",
    "Limits",
    "Meter",
    "Outcome",
    "Peer",
    "Publisher",
    "Reply",
    "ResponseHandover",
    "Sink",
    "Source",
    "Submitted",
    "Writer",
    "client_of",
    "unlimited",
]
