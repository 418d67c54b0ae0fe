"""A shop whose dashboard follows its orders. Nothing here publishes: the trigger in ``schema.sql`` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import asyncpg
from fastapi import FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from app.main import create_app

HERE = Path(__file__).parent

abide = create_app()
app = FastAPI(lifespan=abide.lifespan)
app.mount("/realtime", abide)


class Order(BaseModel):
    """What somebody buys."""

    item: Annotated[str, Field(min_length=1, max_length=100)]


@app.get("/")
def page() -> FileResponse:
    """Return the dashboard."""
    return FileResponse(HERE / "index.html")


@app.post("/orders", status_code=204)
async def place(order: Order) -> None:
    """Place an order."""
    await execute("INSERT INTO orders (item) VALUES ($1)", order.item)


@app.post("/orders/{number}/ship", status_code=204)
async def ship(number: int) -> None:
    """Say that an order is on its way."""
    await execute("UPDATE orders SET status = 'shipped' WHERE id = $1", number)


async def execute(statement: str, *values: object) -> None:
    """Run one statement in a transaction of its own."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()
