"""The log in PostgreSQL: durable, shared by workers and machines.

Read ``backend`` first: it puts the rest together. Then ``append/`` (how messages get into the log), ``listen/`` (how
word of them comes back, and what of it is believed), ``log_reads``, ``sessions/`` (connections, and what their errors
mean) and ``outcomes`` (what readiness says). All SQL is in ``sql/``. docs/design/bus.md walks through it.
"""

from app.bus.postgres.backend import PostgresBackend
from app.bus.postgres.migrations import migrate

__all__ = ["PostgresBackend", "migrate"]
