"""Attacks on access: tokens that are forged, grants and names that reach too far, and pages of other sites."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.support.login import sign
from tests.support.server import SERVE, Server
from tests.support.tokens import OLD_SECRET, SECRET, bearer, part, signed
from tests.web.conftest import PLAIN

ISSUER, AUDIENCE = "https://login.example/", "abide"
PAGE = "https://app.example"
CHANNELS = f"""
backend: memory://
operators: key
origins: ["{PAGE}", "null"]
auth:
  keys: [the-key-of-all, {{name: x, key: the-key-named-x}}]
  tokens:
    secret: ["{SECRET}", "{OLD_SECRET}", "", ~]
    issuer: {ISSUER}
    audience: {AUDIENCE}
    cookie: session
    leeway: 0s
channels:
  open: {{publish: anyone, subscribe: anyone, client_publish: true}}
  shut: {{publish: token, subscribe: token}}
  chat.plain: {{publish: token, subscribe: token}}
  "chat.{{room}}": {{publish: token, subscribe: token}}
  "team.{{id}}x": {{publish: token, subscribe: token}}
  "org.{{org}}": {{publish: {{claim: org}}, subscribe: [token, {{claim: org}}]}}
  "org.{{org}}.orders": {{publish: {{claim: org}}, subscribe: [token, {{claim: org}}]}}
  "user.{{id}}": {{publish: {{claim: sub}}, subscribe: {{claim: sub}}}}
  "box.{{id}}": {{publish: [token, key, {{claim: sub}}]}}
"""


def claims(**others: object) -> dict[str, Any]:
    """Return the claims of a good token, with others added; those that are None are left out."""
    now = int(time.time())
    found = {"sub": "mallory", "exp": now + 600, "iat": now, "iss": ISSUER, "aud": AUDIENCE, **others}
    return {name: value for name, value in found.items() if value is not None}


def good(**others: object) -> str:
    return signed(claims(**others))


class Door(NamedTuple):
    """A server, and a client of it."""

    server: Server
    http: httpx.Client

    def get(self, path: str, credential: str | None = None, **headers: str) -> int:
        """Return the status of a GET; names of headers have ``_`` for ``-``."""
        found = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.get(path, headers=found | (bearer(credential) if credential is not None else {})).status_code

    def push(self, name: str, credential: str, **headers: str) -> httpx.Response:
        found = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(f"/push/{name}", json=1, headers=found | bearer(credential))

    def open(
        self, path: str, headers: Mapping[str, str], *protocols: str, origin: str | None = None
    ) -> int | str | None:
        """Open a WebSocket and close it; return its subprotocol, or the status of the refusal."""
        try:
            with connect(
                self.server.ws_url + path,
                additional_headers=headers,
                subprotocols=[Subprotocol(protocol) for protocol in protocols] or None,
                origin=None if origin is None else Origin(origin),
                open_timeout=30,
            ) as socket:
                return socket.subprotocol
        except InvalidStatus as refused:
            return refused.response.status_code


@pytest.fixture(scope="module", params=[SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    with (
        Server(channels=CHANNELS, command=request.param) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        yield Door(server, client)


# Forged and broken tokens.

NESTED = b"[" * 2700 + b"]" * 2700
GRANTS = {"subscribe": ["open"], "publish": ["open"]}


def unsigned(alg: str, signature: str = "") -> str:
    return f"{part({'alg': alg, 'typ': 'JWT'})}.{part(claims(**GRANTS))}.{signature}"


def payload(text: str) -> str:
    """Return a signed token whose payload is a text with the members of a good one."""
    members = json.dumps(claims(exp=None))[1:-1]
    return signed(("{" + members + "," + text + "}").encode())


def forged() -> dict[str, str]:  # noqa: C901 — a list of what can be wrong
    """Return tokens that are not good, by what is wrong with them."""
    now = int(time.time())
    ours = good()
    head, body, signature = ours.split(".")
    wrong: dict[str, str] = {
        "no algorithm, no signature": unsigned("none"),
        "no algorithm, in capitals": unsigned("NONE"),
        "no algorithm, in mixed letters": unsigned("nOnE"),
        "no algorithm, another's signature": unsigned("none", signature),
        "an empty secret": signed(claims(), secret=b""),
        "a secret of blanks": signed(claims(), secret=b" " * 32),
        "the secret and a newline": signed(claims(), secret=f"{SECRET}\n"),
        "a secret cut off": signed(claims(), secret=SECRET[:-1]),
        "the secret of the secrets together": signed(claims(), secret=SECRET + OLD_SECRET),
        "another algorithm": signed(claims(), header={"alg": "HS512"}),
        "an algorithm in small letters": signed(claims(), header={"alg": "hs256"}),
        "an algorithm that is a list": signed(claims(), header={"alg": ["HS256"]}),
        "no algorithm at all": signed(claims(), header={"typ": "JWT"}),
        "a login's key that nobody configured": sign(claims(), "RS256", "kid"),
        "a key in its own header": signed(
            claims(), header={"alg": "HS256", "jwk": {"kty": "oct", "k": part(b"k" * 32)}}, secret=b"k" * 32
        ),
        "the URL of a key": sign(claims(), "ES256", "http://127.0.0.1:9/keys"),
        "a path as the name of a key": signed(claims(), header={"alg": "HS256", "kid": "/dev/null"}, secret=b""),
        "a header that must be understood": signed(claims(), header={"alg": "HS256", "crit": ["exp"], "exp": 1}),
        "a payload that is not encoded": signed(claims(), header={"alg": "HS256", "b64": False}),
        "no header": f".{body}.{signature}",
        "a header that is a list": signed(claims(), header=["HS256"]),
        "a deep header": f"{part(NESTED)}.{body}.{signature}",
        "a long header": signed(claims(), header={"alg": "HS256", "pad": "x" * 3000}),
        "no payload": signed(b""),
        "a deep payload": signed(NESTED),
        "a payload that is a list": signed([claims()]),
        "a payload that is a text": signed(json.dumps(claims())),
        "the payload of another": f"{head}.{part(claims(sub='root'))}.{signature}",
        "a signature cut off": ours[:-3],
        "a signature with a dot": f"{ours}.",
        "five parts": f"{ours}.{body}.{signature}",
        "padding": f"{head}.{body}.{signature}=",
        "two tokens": f"{ours}, {ours}",
        "two tokens with a blank": f"{ours} {ours}",
        "quotes": f'"{ours}"',
        "too many characters": good(pad="x" * 6200),
        "nothing": "",
        "a word": "null",
        "no end": good(exp=None),
        "an end that is past": good(exp=now - 1),
        "an end in ages": good(exp=now + 25 * 3600),
        "an end in milliseconds": good(exp=(now + 600) * 1000),
        "two ends, the last one past": payload(f'"exp":{now + 600},"exp":{now - 1}'),
        "an end without an end": payload('"exp":1e999'),
        "an end that is no number": payload('"exp":NaN'),
        "an end of 400 digits": payload('"exp":' + "9" * 400),
        "an end of 5,000 digits": payload('"exp":' + "9" * 5000),
        "an end that is null": payload('"exp":null'),
    }
    for name, value in {
        "a text": str(now + 600),
        "true": True,
        "a list": [now + 600],
        "an object": {"exp": now + 600},
        "negative": -1,
        "endless": 10**300,
    }.items():
        for claim in ("exp", "nbf", "iat"):
            wrong[f"{claim}: {value if claim == 'exp' and name == 'true' else name}"] = good(**{claim: value})
    wrong |= {f"{claim} in the future": good(**{claim: now + 300}) for claim in ("nbf", "iat")}
    for claim in ("iss", "aud", "sub", "jti"):
        for value in (7, True, {"a": 1}, [7], [[AUDIENCE]], [AUDIENCE, 7], "", "x" * 9000):
            wrong[f"{claim}: {json.dumps(value)[:20]}"] = good(**{claim: value})
    for claim in ("sub", "jti"):
        for value in ("a\nb", "a\0b", "\ud800", "x" * 256, ["mallory"]):
            wrong[f"{claim}: {value!r:.20}"] = good(**{claim: value})
    for claim in ("publish", "subscribe"):
        for value in ("open", "*", {"open": True}, [7], [["open"]], ["open"] * 101, True, ["open", None]):
            wrong[f"{claim}: {json.dumps(value)[:20]}"] = good(**{claim: value})
    for value in (ISSUER[:-1], ISSUER.upper(), f"{ISSUER} ", [ISSUER]):
        wrong[f"iss: {value}"] = good(iss=value)
    for value in ("Abide", "abid", ["other"], [], ["ab", "ide"]):
        wrong[f"aud: {value}"] = good(aud=value)
    return wrong | {"no issuer": good(iss=None), "no audience": good(aud=None)}


def test_no_forged_token_is_taken(door: Door) -> None:
    """Server refuses each token that is not good with 401, also where anyone may, and says nothing of what is in it."""
    for what, raw in forged().items():
        answer = door.http.get("/open/history", headers=bearer(raw))
        assert answer.status_code == 401, what
        assert answer.headers["www-authenticate"].startswith("Bearer"), what
        assert not any(piece in answer.text for piece in raw.split(".") if len(piece) > 4), what
        assert door.push("open", raw).status_code == 401, what


def test_no_forged_token_opens_anything_that_lasts(door: Door) -> None:
    """Server opens no socket and no stream for a token that is not good, and leaves nobody connected as less."""
    for what, raw in forged().items():
        assert door.get("/open", raw, accept="text/event-stream") == 401, what
        if raw.replace(".", "").replace("-", "").replace("_", "").isalnum() and len(raw) < 8000:  # others do not arrive
            for path in ("/open", "/ws", "/echo"):
                assert door.open(path, {}, "abide.v1", f"bearer.{raw}") == 401, what
    for raw in ("", "null", unsigned("none")):
        for path in ("/open", "/ws", "/echo"):
            assert door.open(path, bearer(raw), "abide.v1") == 401


def test_good_tokens_are_taken(door: Door) -> None:
    """Server takes tokens that are as long, as full and as odd as they may be."""
    taken = [
        good(),
        good(pad="x" * 5700),
        signed(claims(), secret=OLD_SECRET),
        signed(claims(), header={"alg": "HS256", "kid": "../../x", "jku": "http://127.0.0.1:9/"}),
        good(aud=["other", AUDIENCE]),
        good(exp=time.time() + 60.5),
        good(nbf=int(time.time()) - 1, iat=None, sub=None, jti="9f"),
        good(subscribe=[f"chat.{number}" for number in range(100)], publish=[]),
        good(sub="x" * 255),
    ]
    assert [door.get("/open/history", raw) for raw in taken] == [200] * len(taken)
    assert door.open("/open", {}, "abide.v1", f"bearer.{good()}") == "abide.v1"
    assert door.open("/open", {}, f"bearer.{good()}", "abide.v1") == "abide.v1"


# Which credential counts.


def test_only_the_first_credential_is_looked_at(door: Door) -> None:
    """Server judges Authorization before a subprotocol, a ticket and a cookie, and falls back from none to another."""
    path, own = "/user.mallory/history", good()
    ticket = door.http.post("/ticket", headers=bearer(own)).json()["ticket"]
    cookie = {"cookie": f"session={own}"}
    for bad in ("", "x", good(exp=1)):
        assert door.http.get(path, headers=cookie | bearer(bad)).status_code == 401
        assert door.http.get(f"{path}?ticket={ticket}", headers=bearer(bad)).status_code == 401
        assert door.open("/user.mallory", cookie, "abide.v1", f"bearer.{bad or 'x'}") == 401
        assert door.open("/user.mallory", bearer(bad), "abide.v1", f"bearer.{own}") == 401
    assert door.http.get(f"{path}?ticket=used", headers=cookie).status_code == 401
    assert door.http.get(f"{path}?ticket={ticket}", headers=cookie).status_code == 200
    assert door.http.get(f"{path}?ticket={ticket}", headers=cookie).status_code == 401, "a ticket is good once"
    assert door.http.get(f"{path}?token={own}").status_code == 401
    assert door.http.get(f"{path}?access_token={own}&bearer={own}").status_code == 401


def test_a_credential_that_comes_twice_is_refused(door: Door) -> None:
    """Server refuses two values of Authorization, and two tickets, whatever one of them is worth."""
    path, port = "/user.mallory/history", door.server.port
    for second in (good(sub="other"), "the-key-of-all", "x", ""):
        for pair in ((good(), second), (second, good())):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.putrequest("GET", path)
            for credential in pair:
                connection.putheader("Authorization", f"Bearer {credential}")
            connection.endheaders()
            assert connection.getresponse().status == 400
            connection.close()
    assert door.get(f"{path}?ticket=a&ticket=b") == 400


def test_a_key_is_no_token_and_no_token_is_a_key(door: Door) -> None:
    """Server takes a key only where a policy says key, and shows operators' pages to no token."""
    assert door.get("/shut/history", "the-key-of-all") == 403
    for path in ("/channels", "/console/overview", "/metrics", "/openapi.json", "/asyncapi.json", "/docs"):
        assert door.get(path, good(**GRANTS, operator=True, role="service_role", scope="admin")) == 403
    assert door.http.post("/revoke", json={"sub": "x"}, headers=bearer(good(revoke=True))).status_code == 403
    assert door.http.post("/disconnect", json={"sub": "x"}, headers=bearer("the-key-named-x")).status_code == 403
    assert door.http.post("/ticket", headers=bearer("the-key-of-all")).status_code == 403


# Grants and names.


@pytest.mark.parametrize(
    "grant",
    ["*", "**", "*.*", "chat*", "chat.**", "chat.?", "chat.{room}", "CHAT.7", "chat.7 ", " chat.7", "chat.%37",
     "/chat.7", "chat.[7]", "chat.*.7", "^chat", ".*", "", "$access", "chat.7/history", "chat.7,chat.8", "team.*"],
)  # fmt: skip
def test_a_grant_reaches_nothing_by_a_pattern(door: Door, grant: str) -> None:
    """Server takes grants for exact names and declared families, and for nothing else."""
    raw = good(subscribe=[grant], publish=[grant])
    for name in ("chat.7", "chat.plain", "shut", "team.ax", "org.a", "org.a.orders"):
        assert door.get(f"/{name}/history", raw) == 403
        assert door.push(name, raw).status_code == 403


def test_a_grant_of_a_family_reaches_its_members(door: Door) -> None:
    """Server admits a family's grant to the channels of that family, and not to those of another with one beginning."""
    names = ("chat.7", "chat.plain", "chat.a.b", "team.ax", "org.a", "org.a.orders", "org.a.b.orders", "shut")
    reach = {
        "chat.*": {"chat.7", "chat.a.b"},
        "chat.plain": {"chat.plain"},
        "team.*x": {"team.ax"},
        "org.*": {"org.a"},
        "org.*.orders": {"org.a.orders", "org.a.b.orders"},
        "org.a.orders": {"org.a.orders"},
    }
    for grant, reached in reach.items():
        raw = good(subscribe=[grant])
        assert {name for name in names if door.get(f"/{name}/history", raw) == 200} == reached


def test_a_claim_reaches_its_own_parameter(door: Door) -> None:
    """Server compares a claim with the parameter of the family that the name belongs to, and with nothing else."""
    reach: list[tuple[object, set[str]]] = [
        ("a", {"org.a", "org.a.orders"}),
        ("a.orders", set()),
        ("a.b", {"org.a.b", "org.a.b.orders"}),
        (["a", "a.b"], {"org.a", "org.a.orders", "org.a.b", "org.a.b.orders"}),
        ([["a"]], set()),
        ({"a": True}, set()),
        (None, set()),
        (7, {"org.7"}),
        (True, set()),
        (7.0, set()),
        ("*", set()),
        ("", set()),
    ]
    names = ("org.a", "org.a.orders", "org.a.b", "org.a.b.orders", "org.7", "org.True", "org.7.0", "org.None")
    for value, reached in reach:
        raw = good(org=value)
        assert {name for name in names if door.get(f"/{name}/history", raw) == 200} == reached, value
        assert {name for name in names if door.push(name, raw).status_code == 200} == reached, value


@pytest.mark.parametrize("sub", ["auth0|65f", "google-oauth2|1", "user_2x", "a.b+c@d.example", "o'neil", "a=b~c:d"])
def test_a_subject_of_a_login_reaches_its_channel(door: Door, sub: str) -> None:
    """Server reads a parameter by its percent-encoding once, and admits its subject alone."""
    own, other = good(sub=sub), good(sub=f"{sub}2")
    whole = "".join(f"%{byte:02x}" for byte in sub.encode())
    for path in (f"/user.{whole}/history", f"/%75ser.{whole}/history", f"/user.{sub.replace('|', '%7C')}/history"):
        assert (door.get(path, own), door.get(path, other)) == (200, 403)
    assert door.get(f"/user.{whole.replace('%', '%25')}/history", own) == 404
    assert (
        door.http.post("/push", json={"channel": f"user.{sub}", "message": 1}, headers=bearer(own)).status_code == 200
    )
    assert door.open(f"/user.{whole}", bearer(own), "abide.v1") == "abide.v1"


@pytest.mark.parametrize(
    "sub", ["a b", "é", "a/b", "a%2Fb", "*", "{id}", "a\\b", 'a"b', "x" * 129, "a,b", "a\u200bb", "$access"]
)
def test_a_subject_that_no_parameter_can_hold_reaches_nothing(door: Door, sub: str) -> None:
    """Server has no channel for such a subject, for whoever asks and however it is written."""
    raw = good(sub=sub) if sub.isprintable() else good()
    encoded = "".join(f"%{byte:02X}" for byte in sub.encode())
    assert door.get(f"/user.{encoded}/history", raw) == 404
    assert door.push(f"user.{encoded}", raw).status_code == 404
    answer = door.http.post("/push", json={"channel": f"user.{sub}", "message": 1}, headers=bearer(raw))
    assert answer.status_code == 404


def test_idempotency_keys_of_two_callers_never_meet(door: Door) -> None:
    """Server keeps the keys of each caller and channel apart, however their names may be joined."""
    callers = [
        "the-key-of-all",
        "the-key-named-x",
        *(
            good(sub=sub, publish=["box.*"])
            for sub in ("x", "key:x", "sub:x", "x box", "server", "a", "a_b", "a k", "a  k")
        ),
    ]
    pushes = [(caller, name) for caller in callers for name in ("box.c", "box.b_c", "box.x")]
    for number, (caller, name) in enumerate(pushes):
        answer = door.http.post(f"/push/{name}", json=number, headers=bearer(caller) | {"idempotency-key": "k"})
        assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (200, None), (caller, name)


# Pages of other sites.


def test_a_cookie_is_used_for_pages_of_listed_origins_alone(door: Door) -> None:
    """Server refuses a page of another origin whatever it does, with the cookie of its reader."""
    cookie = {"cookie": f"a=b; session={good()}; c=d"}
    sources: list[tuple[dict[str, str], int]] = [
        ({"origin": PAGE}, 200),
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"{PAGE}.evil.example"}, 403),
        ({"origin": PAGE.replace("https", "http")}, 403),
        ({"origin": f"{PAGE}:444"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ]
    for source, status in sources:
        headers = cookie | source
        assert door.http.get("/user.mallory/history", headers=headers).status_code == status, source
        assert door.http.post("/push/user.mallory", json=1, headers=headers).status_code == status, source
        assert door.http.post("/ticket", headers=headers).status_code == status, source
        stream = headers | {"accept": "text/event-stream"}
        with door.http.stream("GET", "/user.mallory", headers=stream) as answer:
            assert answer.status_code == status, source
        for path, protocols in (("/user.mallory", ()), ("/user.mallory", ("abide.v1",)), ("/ws", ("abide.v1",))):
            opened = door.open(path, headers, *protocols)
            assert opened == (status if status != 200 else protocols[0] if protocols else None), (source, path)


def test_a_cookie_that_is_not_good_is_refused(door: Door) -> None:
    """Server refuses a cookie that has no good token, and looks at no cookie of another name."""
    for value in ("x", good(exp=1), "", f"{good()}x"):
        assert door.get("/open/history", cookie=f"session={value}") == 401
        assert door.open("/ws", {"cookie": f"session={value}"}, "abide.v1") == 401
    for name in ("Session", "session ", "xsession", "session.sig", "__Host-session"):
        assert door.get("/user.mallory/history", cookie=f"{name.strip()}2={good()}") == 401
