"""The engines as tests break them, each with a world of its own."""

from tests.support.worlds.kafka import KafkaWorld
from tests.support.worlds.postgres import PostgresWorld
from tests.support.worlds.redis import RedisStreamWorld, RedisWorld
from tests.support.worlds.sqlite import SqliteWorld
from tests.support.worlds.world import World

WORLDS: dict[str, type[World]] = {
    world.name: world for world in (PostgresWorld, SqliteWorld, RedisStreamWorld, RedisWorld, KafkaWorld)
}
"""By the engine's name."""
