"""A client of Abide: publish, and subscribe without a hole. ``abide_client.sync`` has both without ``await``.

It is published as ``abide_client`` (clients/python), so it imports nothing else of Abide, and only relatively.
"""

from .client_error import ClientError
from .credentials import Token
from .messages import NOWHERE, Gap, Message, Undecodable
from .publishing import publish
from .subscribing import subscribe

__all__ = ["NOWHERE", "ClientError", "Gap", "Message", "Token", "Undecodable", "publish", "subscribe"]
