"""The log in PostgreSQL: durable, shared by workers and machines.

Reading order: ``backend`` (how it is put together), ``append`` (a commit), ``listener`` and
``follower`` (how word of it comes back, and what of it is believed), ``outbox`` (publishing from SQL),
``link`` (connections), ``store`` (how a commit gets in by its deadline, and the probe), ``outcomes`` (what readiness
says), ``slow`` (what sessions wait for), ``faults`` (what an error means, and what to do), ``migrations``.
The SQL is in ``app/bus/postgres/sql``.
"""

from app.bus.postgres.backend import PostgresBackend
from app.bus.postgres.migrations import migrate
from app.bus.postgres.seen import Seen

__all__ = ["PostgresBackend", "Seen", "migrate"]
