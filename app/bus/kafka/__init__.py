"""The log in Kafka: one topic of one partition for each channel, shared by workers and machines.

Read ``backend`` first: it puts the rest together. Then ``topics`` (which topic a channel is, and what its epochs are),
``store`` (how records get there), ``consumer`` (how word of them comes back) and ``log`` (reads). ``records`` says what
a record is as a message. docs/design/kafka.md has the decisions.
"""

from app.bus.kafka.backend import KafkaBackend
from app.bus.kafka.brokers.bootstrap import Address, parse
from app.bus.kafka.topics import Declared

__all__ = ["Address", "Declared", "KafkaBackend", "parse"]
