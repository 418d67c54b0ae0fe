"""The channels that the server keeps in the log for itself.

No channel that is declared, published to or subscribed to has such a name: ``$`` is in none of them.
"""

from __future__ import annotations

ACCESS = "$access"
"""What was taken back, and which connections to close. ``abide.revoke`` in SQL writes it, too."""

TICKETS = "$tickets"
"""Tickets that were issued and used."""
