"""The log in a SQLite file: durable, shared by the workers of one machine.

Read ``backend`` first: it puts the rest together. Then ``store`` and ``commit`` (how messages get into the log),
``watch`` and ``wakeups`` (how word of them comes back), ``log_reads``, ``epoch``, and ``file/`` (where the file may be,
who uses it, and what its errors mean). docs/design/sqlite.md walks through it.
"""

from app.bus.sqlite.backend import SqliteBackend
from app.bus.sqlite.file.location import refusal

__all__ = ["SqliteBackend", "refusal"]
