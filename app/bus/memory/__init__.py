"""The log in the memory of one process. Read ``backend`` first; ``log`` and ``keys`` are what it holds, bounded."""

from app.bus.memory.backend import MemoryBackend

__all__ = ["MemoryBackend"]
