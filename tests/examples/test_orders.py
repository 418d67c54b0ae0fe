"""``examples/orders``, started as its README says and opened in a real browser."""

from __future__ import annotations

import asyncio

import asyncpg

from tests.support.chromium import Chromium, Page
from tests.support.example import Example, command_of

CELLS = "[...row.cells].slice(1, 3).map((cell) => cell.textContent)"
ROWS = f"[...document.querySelectorAll('#orders tr')].map((row) => {CELLS})"
STATE = "document.getElementById('state').textContent"
ORDER = "INSERT INTO orders (item) VALUES ($1)"


def place(page: Page, item: str) -> None:
    page.run(f"document.getElementById('item').value = '{item}'; document.getElementById('place').requestSubmit();")
    page.until(f"{ROWS}.some(([ordered]) => ordered === '{item}')")


def test_orders_of_sql_show_when_they_are_committed(chromium: Chromium, database_url: str) -> None:
    """Dashboard shows what SQL and the page order, and what becomes of it, but nothing that is rolled back."""

    async def order() -> None:
        connection = await asyncpg.connect(database_url)
        undone = connection.transaction()
        await undone.start()
        await connection.execute(ORDER, "a ringer")
        await undone.rollback()
        await connection.execute(ORDER, "a rug")
        await connection.close()

    with Example("orders", {"DATABASE_URL": database_url}) as orders, chromium.page() as page:
        page.open(orders.url)
        page.until(f"{STATE} === 'open'")
        asyncio.run(order())
        page.until(f'JSON.stringify({ROWS}) === \'[["a rug","placed"]]\'')
        place(page, "milk")
        page.run("document.querySelector('#orders tr:last-child button').click();")
        page.until(f'JSON.stringify({ROWS}) === \'[["milk","placed"],["a rug","shipped"]]\'')
        assert (page.run("return refused;"), page.log) == ([], [])


def test_a_signal_ends_orders_with_its_own_database(chromium: Chromium) -> None:
    """Orders starts a PostgreSQL where it is given none, and ends with all its processes, quietly, on SIGTERM."""
    with Example("orders") as orders, chromium.page() as page:
        page.open(orders.url)
        place(page, "a bowling ball")
        pids, before = orders.pids(), orders.output()
        assert [pid for pid in pids if "/postgres -D" in command_of(pid)]
        orders.terminate()
        assert [command_of(pid) for pid in pids if command_of(pid)] == []
        assert orders.output().removeprefix(before).replace(b"make: Leaving directory", b"") in (b"", before)
        page.until(f"{STATE} !== 'open'")
