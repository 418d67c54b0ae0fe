"""A chat: people log in by a name, the application says who wrote what, and Abide, mounted in it, delivers it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from app.main import create_app

PAGE = Path(__file__).with_name("index.html")
PORT, SECRET = int(os.environ["PORT"]), os.environ["TOKEN_SECRET"]
TOKEN_SECONDS = 600

abide = create_app()
app = FastAPI(lifespan=abide.lifespan)
app.mount("/realtime", abide)


class Login(BaseModel):
    """Who comes in: words with one blank between them, so that no two names look alike by their blanks."""

    name: Annotated[str, Field(max_length=40, pattern=r"^[\w.'-]+( [\w.'-]+)*$")]


class Line(BaseModel):
    """What somebody writes."""

    text: Annotated[str, Field(min_length=1, max_length=2000)]


def name_of(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    """Return the name in the token of a request; refuse one without a good token."""
    try:
        return str(jwt.decode(credentials.credentials, SECRET, algorithms=["HS256"])["sub"])
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, str(error)) from None


@app.get("/")
def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE)


@app.post("/login")
def log_in(login: Login) -> str:
    """Return a token, which proves the name and opens every room to its reader. Yours asks for a password first."""
    claims = {"sub": login.name, "exp": int(time.time()) + TOKEN_SECONDS, "subscribe": ["chat.*"]}
    return jwt.encode(claims, SECRET)


@app.post("/rooms/{room}")
async def say(
    room: Annotated[str, InPath(pattern=r"^[\w-]{1,40}$")], line: Line, name: Annotated[str, Depends(name_of)]
) -> str:
    """Publish what the owner of the token writes, and return its position."""
    return await abide.publish(f"chat.{room}", {"from": name, "text": line.text})


def main() -> None:
    """Serve on PORT until Ctrl-C or SIGTERM."""
    print(f"the chat: http://127.0.0.1:{PORT}/", flush=True)
    uvicorn.run(app, port=PORT, log_level="warning", timeout_graceful_shutdown=2)
