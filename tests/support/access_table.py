"""Who gets what answer: every policy and every caller, in one table, from which the page in docs/access is made."""

from __future__ import annotations

from typing import NamedTuple

POLICIES = (
    "anyone", "key", "operators", "token", "{claim: sub}", "ask", "nobody", "[key, token]", "[token, {claim: sub}]",
    "[key, ask]",
)  # fmt: skip
"""As channels.yaml has them."""

_ROWS = """
nothing                                       | yes 401 401 401 401 403 403 401 401 403
a credential that is not good                 | 401 401 401 401 401 403 401 401 401 403
a session that only the application knows     | 401 401 401 401 401 yes 401 401 401 yes
a key                                         | yes yes yes 403 403 403 403 yes 403 yes
a key that is limited to this channel         | yes yes 403 403 403 403 403 yes 403 yes
a key that is limited to publishing here      | yes pub 403 403 403 403 403 pub 403 pub
a key that is limited to other channels       | yes 403 403 403 403 403 403 403 403 403
a token without grants                        | yes 403 403 403 403 403 403 403 403 403
a token with a grant of this channel          | yes 403 403 yes 403 403 403 yes yes 403
a token with a grant of the family            | yes 403 403 yes 403 403 403 yes yes 403
a token with a grant to publish here          | yes 403 403 pub 403 403 403 pub pub 403
a token with a grant to subscribe here        | yes 403 403 sub 403 403 403 sub sub 403
a token with grants of other channels         | yes 403 403 403 403 403 403 403 403 403
a token whose claim is this channel's         | yes 403 403 403 yes 403 403 403 yes 403
"""


class Verdict(NamedTuple):
    """What one caller is answered under one policy: an HTTP status for each verb; 200 for admitted."""

    publish: int
    subscribe: int


_VERDICTS = {
    "yes": Verdict(200, 200), "pub": Verdict(200, 403), "sub": Verdict(403, 200), "401": Verdict(401, 401),
    "403": Verdict(403, 403),
}  # fmt: skip
_SHOWN = {"yes": "yes", "pub": "publish: yes, subscribe: 403", "sub": "publish: 403, subscribe: yes"}
_CELLS = {
    caller.strip(): cells.split() for caller, _, cells in (row.partition("|") for row in _ROWS.strip().splitlines())
}

CALLERS = tuple(_CELLS)
"""What a caller sends."""


def verdict(caller: str, policy: str) -> Verdict:
    """Return what a caller is answered under a policy."""
    return _VERDICTS[_CELLS[caller][POLICIES.index(policy)]]


def markdown() -> str:
    """Return the table as the documentation has it."""
    lines = [["the caller sends", *(f"`{policy}`" for policy in POLICIES)], ["---"] * (len(POLICIES) + 1)]
    lines += [[caller, *(_SHOWN.get(cell, cell) for cell in cells)] for caller, cells in _CELLS.items()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
