"""The application that docs/access/ask.md shows, as a server of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from app.access.auth_settings import AskSettings
from app.access.remote.ask import Asker
from app.core.errors import ForbiddenError
from app.core.rights.policy import Forwarded, Question
from app.core.rights.token import Verb
from tests.support.local import LocalServer
from tests.support.processes import ROOT

QUESTION = Question(Verb.SUBSCRIBE, "doc.7", "doc.{id}", "7")

PAGE = (ROOT / "docs/access/ask.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown() -> Iterator[LocalServer]:
    """Serve the page's application, with a way to log in."""
    section = PAGE.partition("## FastAPI")[2]
    [code] = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SESSION_SECRET", "a secret of this test")
        namespace: dict[str, Any] = {"__name__": "shown"}
        exec(compile(code, "ask.md", "exec"), namespace)  # noqa: S102 — running it is the test
    app: FastAPI = SimpleNamespace(**namespace).app

    @app.get("/login/{user}")
    def log_in(user: str, request: Request) -> None:
        request.session["user"] = user

    with LocalServer(app, http="auto", ws="none", loop="asyncio") as server:
        yield server


async def decide(shown: LocalServer, user: str | None, question: Question) -> str | None:
    """Log in, and ask about a document as Abide does; return whom the application admits."""
    url = f"http://127.0.0.1:{shown.port}"
    async with httpx.AsyncClient(trust_env=False) as browser:
        if user is not None:
            await browser.get(f"{url}/login/{user}")
        headers = [("cookie", f"{name}={value}") for name, value in browser.cookies.items()]
    asker = Asker(AskSettings(f"{url}/realtime/auth", ("cookie",), 20))
    try:
        return (await asker.ask(question, Forwarded(tuple(headers)))).sub
    finally:
        await asker.aclose()


async def test_the_application_shown_admits_by_its_session(shown: LocalServer) -> None:
    """Application admits a reader of the document, by the session's cookie."""
    assert await decide(shown, "ada", QUESTION) == "ada"


@pytest.mark.parametrize(
    ("user", "question"),
    [
        (None, QUESTION),
        ("bob", QUESTION),
        ("ada", QUESTION._replace(parameter="8", channel="doc.8")),
        ("ada", QUESTION._replace(family="{id}.doc")),
    ],
)
async def test_the_application_shown_refuses_the_others(
    shown: LocalServer, user: str | None, question: Question
) -> None:
    """Application refuses who has no session, who may not read the document, and channels that it does not know."""
    with pytest.raises(ForbiddenError):
        await decide(shown, user, question)
