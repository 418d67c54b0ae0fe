"""Prepares the database, DATABASE_URL or a PostgreSQL of its own, and serves the shop until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import asyncpg
import uvicorn

from app.bus.postgres import migrate
from examples.postgres import database

PORT = int(os.environ["PORT"])
SCHEMA = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")


def main() -> None:
    """Serve on PORT."""
    with database() as (url, _):
        os.environ["DATABASE_URL"] = url
        asyncio.run(prepare(url))
        print(f"the dashboard: http://127.0.0.1:{PORT}/ · place orders there, or in SQL: psql '{url}'", flush=True)
        uvicorn.run("examples.orders.orders:app", port=PORT, log_level="warning", timeout_graceful_shutdown=2)


async def prepare(url: str) -> None:
    """Create Abide's schema, as ``bin/abide migrate`` does, and the shop's."""
    await migrate(url)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SCHEMA)
    finally:
        await connection.close()
