"""Abide: a realtime channels server. Start reading at ``docs/design/README.md``."""

__version__ = "0.1.0"

COMMAND = "abide"
"""What the command is called in messages: ``bin/abide`` in a checkout, ``abide`` in the image."""
