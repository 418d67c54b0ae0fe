"""A fake language model. Each run has a text of its own, and gets the same one whenever it is asked for."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from typing import Any

SECONDS = (6.0, 9.0)
"""The least and the most time that a run takes."""

Chunk = dict[str, Any]
"""A chunk of the AI SDK's UI message stream."""

_PIECES = (
    "The Dude abides. I don't know about you, but I take comfort in that. ",
    "Новая мысль — и ещё одна: «чувак держится». ",
    "Größe, naïve café, smörgåsbord; e\u0301 is not \u00e9, and ﬁ is one letter. ",
    "これは一行の文章です。句読点「」も、ルビもある。",
    "שלום עולם, and back again. ",
    "🎳 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 are one sign each, and \N{MUSICAL SYMBOL G CLEF} is outside of the first plane. ",
    "\n\n## A heading\n\n1. one\n2. two\n\t- a tab, and two blanks at the end  \n",
    "\n```python\ndef abides(dude: str = 'the Dude') -> bool:\n    return dude != \"Walter\"  # \\n\n```\n",
    "<script>document.body.dataset.state = 'done'; alert(\"never\")</script>\n",
    "<b>not bold</b> &amp; &lt;not an entity&gt; <!-- no comment --> ]]> \u2028\u2029\n",
    '{"json": [1, 2.50, null], "quote": "\\"", "slash": "\\/"}\r\n',
    "a^2 + b^2 = c^2, 100 % of $5 {{ braces }} ${none} `ticks` ~ * _ # | \\ / ' \" ",
)
_TOKEN = re.compile(r"\s?\w{1,4}|\s?[^\w\s]|\s", re.DOTALL)


def text_of(run: str) -> str:
    """Return the whole text of a run."""
    choice = random.Random(f"text of {run}")
    pieces = [f"This is run {run}.\n", *_PIECES, *choice.choices(_PIECES, k=24)]
    return "".join(choice.sample(pieces, len(pieces)))


def chunks_of(run: str) -> list[Chunk]:
    """Return all that a run writes, a token a chunk."""
    tokens = [{"type": "text-delta", "id": "text", "delta": token} for token in _TOKEN.findall(text_of(run))]
    begin = [{"type": "start", "messageId": run}, {"type": "text-start", "id": "text"}]
    return [*begin, *tokens, {"type": "text-end", "id": "text"}, {"type": "finish"}]


async def write(run: str, skipped: int = 0) -> AsyncIterator[Chunk]:
    """Yield the chunks of a run as they are written, without those that were written before."""
    chunks = chunks_of(run)[skipped:]
    pace = random.Random(f"pace of {run}")
    pauses = [pace.random() for _ in chunks]
    whole = pace.uniform(*SECONDS) * len(chunks) / (len(chunks) + skipped)
    clock = asyncio.get_running_loop().time
    due = clock()
    for chunk, pause in zip(chunks, pauses, strict=True):
        due += whole * pause / sum(pauses)
        await asyncio.sleep(due - clock())
        yield chunk
