"""The small protocols through which the rooms reach each other, so that no room needs to know the next."""

from app.core.ports.connections import FANOUT, Handover, Heartbeat, Peer, ResponseHandover, Writer
from app.core.ports.limiting import LIMITS, InForce, Limits, client_of, unlimited
from app.core.ports.messaging import Outcome, Publisher, Sink, Source, Submitted
from app.core.ports.metering import METER, UNMETERED, Meter
from app.core.ports.serving import (
    DIRECT,
    DIRECT_SOCKETS,
    DRAIN,
    INTAKE,
    UNBOUNDED,
    Admitted,
    Answer,
    Direct,
    DirectSockets,
    Drain,
    Intake,
    Reply,
)

__all__ = [
    "DIRECT",
    "DIRECT_SOCKETS",
    "DRAIN",
    "FANOUT",
    "INTAKE",
    "LIMITS",
    "METER",
    "UNBOUNDED",
    "UNMETERED",
    "Admitted",
    "Answer",
    "Direct",
    "DirectSockets",
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
