"""All that limits the clients of one worker, under the settings in force."""

from __future__ import annotations

from app.core.limits.intake import BoundedIntake
from app.core.limits.places import Places
from app.core.limits.rate_limits import RateLimits
from app.core.ports import UNMETERED, Limits, Meter


class Limiter:
    """What the connections and requests of one worker share so that no client takes too much of it."""

    def __init__(self, limits: Limits | None = None, meter: Meter = UNMETERED) -> None:
        self.limits = limits or Limits()
        """The limits in force."""
        self.intake = BoundedIntake(self.limits.bodies)
        """Counts the bytes of incomplete messages."""
        self.places = Places(self.in_force, meter)
        """Counts the connections that last."""
        self.rates = RateLimits(meter)
        """Counts what is published."""

    def in_force(self) -> Limits:
        """Return the limits in force."""
        return self.limits

    def apply(self, limits: Limits) -> None:
        """Limit what comes next by other limits; what is open stays open."""
        self.limits = limits
        self.intake.total = limits.bodies
