"""Starts what the example consists of, and starts again whatever dies."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time

from examples.parts import ROOT, Part, answers, free_port
from examples.postgres import database

ABIDE = str(ROOT / "bin" / "abide")
LOOK_SECONDS = 0.1
"""The pause between two looks at whether everything runs."""


def main() -> None:
    """Serve the page on PORT until a signal comes."""
    port, abide_port = int(os.environ["PORT"]), free_port()
    abide_url = f"http://127.0.0.1:{abide_port}"
    with database() as (url, parts):
        environment = os.environ | {"DATABASE_URL": url, "ABIDE_URL": abide_url, "RUN_KEY": secrets.token_urlsafe()}
        of_abide = {**environment, "HOST": "127.0.0.1", "PORT": str(abide_port), "DRAIN_SECONDS": "0"}
        if subprocess.run([ABIDE, "migrate"], env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            sys.exit(1)  # it has said why
        started = list[Part]()
        try:
            started.append(Part([ABIDE, "serve"], of_abide))
            started[0].wait(lambda: answers(abide_port, "/health/ready"))
            for name in ("writer", "pages"):
                started.append(Part([sys.executable, "-m", f"examples.llm.{name}"], environment))
            started[-1].wait(lambda: answers(port, "/"))
            print(f"a run: http://127.0.0.1:{port}/ · console: {abide_url}/", flush=True)
            while True:
                for part in (*parts, *started):
                    part.tend()
                time.sleep(LOOK_SECONDS)
        finally:
            for part in started:
                part.stop()
