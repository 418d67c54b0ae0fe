"""Abide: a realtime channels server. Start reading at ``docs/design/README.md``."""

__version__ = "0.1.0"
