"""The engines as tests break them, each with a world of its own."""

from tests.support.worlds.postgres import PostgresWorld
from tests.support.worlds.world import World

WORLDS: dict[str, type[World]] = {world.name: world for world in (PostgresWorld,)}
"""By the engine's name."""
