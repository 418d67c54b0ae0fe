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

_PROSE = (
    "The Dude abides. I don't know about you, but I take comfort in that. ",
    "A message is stored first, and delivered then, so whoever asks later reads what you read now. ",
    "Close this page, and open it again: the text goes on where the model is. ",
    "Nobody waits for your page; the model writes, whoever reads. ",
    "A second window with the same address shows the same words. ",
    "Kill the server in the middle of a sentence: it comes back, and so does the sentence. ",
    "What you see is a log, read from its beginning. ",
    "Positions are remembered by the reader, so the server need not remember the reader. ",
    "Pull the plug of your network for a minute, and nothing is missing afterwards. ",
    "That rug really tied the room together. ",
    "Forty milliseconds of words make one message, so a run is a hundred messages and not a thousand.\n\n",
    "Sometimes there's a paragraph, well, it's the paragraph for its time and place.\n\n",
)
_AWKWARD = (
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
"""What is easily lost on a bad way: it has to arrive byte for byte, too."""

_TOKEN = re.compile(r"\s?\w{1,4}|\s?[^\w\s]|\s", re.DOTALL)


def text_of(run: str) -> str:
    """Return the whole text of a run."""
    choice = random.Random(f"text of {run}")
    prose = choice.sample(_PROSE, len(_PROSE))
    awkward = choice.sample([*_AWKWARD, *choice.choices(_AWKWARD, k=14)], len(_AWKWARD) + 14)
    return f"This is run {run}. {''.join(prose)}\n\nWhat has to arrive unchanged as well:\n\n{''.join(awkward)}"


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
