"""``examples/llm``: the page shows what the publisher wrote, whatever is reloaded and killed."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.llm.model import text_of
from tests.support.chromium import Chromium
from tests.support.example import Example, command_of
from tests.support.llm_runs import VICTIMS, kill, tabs
from tests.support.local import wait_for
from tests.support.npm import NpmProject

CHOICE = random.Random(1)  # noqa: S311 — which of master and worker is killed


@pytest.fixture(scope="module")
def example() -> Iterator[Example]:
    with Example("llm") as example:
        yield example


@pytest.mark.timeout(120)  # six programs start again, on a machine that may be busy
def test_a_run_survives_reloads_and_kills(example: Example, chromium: Chromium) -> None:
    """Page shows the publisher's text, byte for byte, after a reload and after each of the processes was killed."""
    with tabs(chromium, example, ["survivor"]) as (tab,):
        for victim in VICTIMS:
            kill(example, victim, CHOICE)
            time.sleep(0.5)
        tab.load()
        wait_for(tab.is_whole, timeout=60)


READER = """
    import { connect } from "abide-client";
    import { AbideChatTransport } from "abide-client/ai";
    import { readUIMessageStream } from "ai";

    const abide = connect(process.argv[2]);
    const start = async ({ chatId }) => { await abide.publish("runs", { run: chatId }); return chatId; };
    const stream = await new AbideChatTransport({ client: abide, start }).sendMessages({ chatId: process.argv[3] });
    let last;
    for await (const message of readUIMessageStream({ stream })) last = message;
    console.log(JSON.stringify([last.id, ...last.parts.map(({ text }) => text)]));
"""


def test_the_ai_sdk_reads_the_same_run(example: Example, tmp_path: Path) -> None:
    """AI SDK makes one message of a run, whose text is the publisher's, byte for byte."""
    address = re.search(r"console: (\S+)/", example.output().decode())
    assert address is not None
    with NpmProject(tmp_path).node(READER, address[1], "survivor") as script:
        assert json.loads(script.line() or "") == ["survivor", text_of("survivor")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_all_of_it(number: signal.Signals) -> None:
    """Example ends with all its processes on SIGTERM, on Ctrl-C and when it is killed, and says nothing about it."""
    with Example("llm") as example:
        pids = example.pids()
        folder = Path(re.findall(r" -D (\S+)/data", command_of(example.pids(VICTIMS["PostgreSQL"])[0]))[0])
        assert {victim for victim, words in VICTIMS.items() if example.pids(words)} == set(VICTIMS)
        example.end(number)
        if number == signal.SIGKILL:  # nobody waits for what has yet to end
            wait_for(lambda: not any(map(command_of, pids)) and not folder.exists())
        assert ([command_of(pid) for pid in pids if command_of(pid)], folder.exists()) == ([], False)
        assert b"rror" not in example.output()
        assert b"Traceback" not in example.output()
