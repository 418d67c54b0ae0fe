"""The npm package ``abide-client``, installed from its tarball: in Node, with React in a page, and with TypeScript."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator

import httpx
import pytest
from anyio.from_thread import BlockingPortal

from tests.support.chromium import Page
from tests.support.npm import NpmProject
from tests.support.processes import ROOT
from tests.support.proxy import FaultProxy
from tests.support.server import Server
from tests.support.valkey import ValkeyServer

CHANNELS = """
channels:
  news: {publish: anyone}
  "chat.{room}": {publish: anyone}
  "run.{id}": {publish: anyone}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(channels=CHANNELS) as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> NpmProject:
    return NpmProject(tmp_path_factory.mktemp("project"))


def push(server: Server, channel: str, message: object) -> str:
    answer = httpx.post(f"{server.url}/push/{channel}", json=message).raise_for_status()
    position: str = answer.json()["position"]
    return position


# The package


def test_the_package_is_what_the_server_serves(project: NpmProject, server: Server) -> None:
    """Package has the server's client.js, the version of the server, and no dependency."""
    assert (project.installed / "client.js").read_bytes() == httpx.get(f"{server.url}/client.js").content
    package = json.loads((project.installed / "package.json").read_text())
    assert package["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert [name for name in project.dependencies if not name.startswith(".")] == ["abide-client"]
    assert {path.name for path in project.installed.iterdir()} >= {"README.md", "LICENSE"}


NODE = """
    import { connect } from "abide-client";
    const abide = connect(process.argv[2], { onState: (state, { transport }) => transport && console.log(transport) });
    const position = await abide.publish("chat.node", { "é": 1 });
    abide.subscribe("chat.node", {
        since: "earliest",
        onMessage: (message) => {
            console.log(message.position === position, message.raw);
            abide.close();
        },
    });
"""


def test_the_package_works_in_node(project: NpmProject, server: Server) -> None:
    """Script of Node publishes and subscribes with the installed package, and ends when it closes the client."""
    with project.node(NODE, server.url) as script:
        assert [script.line(), script.line(), script.line()] == ["sse", 'true {"é":1}', None]
        assert script.wait() == 0


LIVE = """
    import { connect, NOWHERE } from "abide-client";
    const abide = connect(process.argv[2]);
    console.log((await abide.publish("news", 0)) === NOWHERE);
    abide.subscribe("news", {
        since: "8c1f0a52:7",
        onSubscribed: (position, resumed) => console.log("subscribed", position, resumed),
        onGap: ({ after, next, reason }) => console.log("gap", after, next, reason),
        onMessage: ({ position, raw }) => console.log("message", position, raw),
    });
"""


def test_a_server_without_positions_has_one_for_all(project: NpmProject) -> None:
    """Client of a server that keeps nothing is told of its gaps, and every position is NOWHERE."""
    with ValkeyServer() as redis:
        env = {"DATABASE_URL": redis.url("redis")}
        with (
            Server(channels=f"backend: ${{DATABASE_URL}}{CHANNELS}", env=env, ready_path="/health/ready") as server,
            project.node(LIVE, server.url) as script,
        ):
            lines = ["true", "subscribed live:0 false", "gap 8c1f0a52:7 live:0 epoch"]
            assert [script.line() for _ in lines] == lines
            httpx.post(f"{server.url}/push/news", json=1).raise_for_status()
            assert script.line() == "message live:0 1"
            redis.kill_connections()
            assert script.line() == "gap live:0 live:0 dropped"


SLIPS = """
    import { connect } from "abide-client";
    const abide = connect(process.argv[2]);
    const slips = [() => connect("localhost:8000"), () => connect(), () => abide.subscribe("news", console.log)];
    for (const wrong of slips) {
        try { wrong(); } catch ({ message }) { console.log(message); }
    }
    abide.subscribe("nope", { onMessage: console.log });
"""


def test_no_mistake_is_silent(project: NpmProject, server: Server) -> None:
    """Client says what is wrong with an address, with handlers, and, where no handler takes it, with a channel."""
    with project.node(SLIPS, server.url) as script:
        assert [script.line() for _ in range(3)] == [
            "'localhost:8000' is not a server's address: expected http://host:port",
            "'undefined' is not a server's address: expected http://host:port",
            "subscribe takes options, such as { onMessage: ({ data }) => console.log(data) }",
        ]
        assert script.line() == "abide: nope: there is no page and no channel 'nope' here: declare it in channels.yaml"
        assert (script.line(), script.wait()) == (None, 0)


# The types

USER = """
import { AbideError, connect } from "abide-client";
import type { Client, Gap, Message, State, SubscribeOptions } from "abide-client";
import { useChannel } from "abide-client/react";
import { AbideChatTransport, publishRun } from "abide-client/ai";
import { useChat } from "@ai-sdk/react";
import type { UIMessage, UIMessageChunk } from "ai";

interface Order { id: number }
const abide: Client = connect("http://localhost:8000", {
    token: async () => "token",
    WebSocket: globalThis.WebSocket,
    onState: (state: State, { transport, delay = 0, reason }) => console.log(state, transport, delay.toFixed(), reason),
});
connect("http://localhost:8000", { WebSocket: null, token: "key" });
const options: SubscribeOptions<Order> = {
    last: 3,
    since: "earliest",
    onMessage: ({ data, position, time }) => console.log(data.id.toFixed(), position, time?.toFixed()),
    onGap: (gap: Gap) => console.log(gap.after, gap.next, gap.reason === "expired"),
    onError: ({ code, status, pointer, wait }: AbideError) => console.log(code, status?.toFixed(), pointer, wait + 1),
    onSubscribed: (position, resumed) => console.log(position.length, resumed === true),
    onState: (state) => console.log(state === "waiting"),
};
const unsubscribe: () => void = abide.subscribe("orders", options);
const position: string = await abide.publish("orders", { id: 1 }, { key: "order-1" });
unsubscribe();
abide.close();

export function Orders() {
    const { messages, status, error, gap } = useChannel<Order>(abide, "orders", { last: 20, keep: 100 });
    const first: Message<Order> | undefined = messages[0];
    return <p title={status}>{first?.data.id ?? error?.message ?? gap?.reason}</p>;
}

interface Mine extends UIMessage<{ model: string }> {}
const transport = new AbideChatTransport<Mine>({
    client: abide,
    start: async ({ chatId, messages, trigger }) => `${chatId}-${messages.length}-${trigger}`,
    resume: ({ chatId }) => (chatId === "new" ? null : chatId),
    channel: (run) => `run.${run}`,
});
export function Chat() {
    const { messages, sendMessage } = useChat<Mine>({ id: "1", resume: true, transport });
    return <button onClick={() => void sendMessage({ text: "go" })}>{messages[0]?.metadata?.model}</button>;
}
export const run = (chunks: ReadableStream<UIMessageChunk> & AsyncIterable<UIMessageChunk>): Promise<void> =>
    publishRun(abide, "run.1", chunks, { key: position });
"""

MISTAKES = [
    "connect(8000)",
    'connect("http://localhost:8000", { tokens: "key" })',
    'connect("http://localhost:8000", { WebSocket: "ws" })',
    'connect("http://localhost:8000").subscribe("news", { onMessage: ({ offset }) => offset })',
    'connect("http://localhost:8000").state = "open"',
    'connect("http://localhost:8000").subscribe("news", { onState: (state) => state === "lost" })',
    'const position: number = await connect("http://localhost:8000").publish("news", 1)',
]


def test_types_fit_a_user_s_script(project: NpmProject) -> None:
    """TypeScript finds nothing strict to say about a script that uses all of the package."""
    assert project.complaints("user.tsx", USER) == ""


def test_types_find_the_mistakes_of_a_script(project: NpmProject) -> None:
    """TypeScript finds each of some mistakes."""
    lines = ['import { connect } from "abide-client";', *MISTAKES, "export {};"]
    said = project.complaints("mistakes.ts", "\n".join(lines))
    assert {int(line.split("(")[1].split(",")[0]) for line in said.splitlines() if line.startswith("mistakes.ts(")} == {
        *range(2, 2 + len(MISTAKES))
    }


@pytest.mark.parametrize("entry", ["abide-client", "abide-client/react", "abide-client/ai"])
def test_each_export_has_a_type(project: NpmProject, entry: str) -> None:
    """Entry's types name what it exports in fact, nothing less and nothing more."""
    names = f"Object.keys(await import({json.dumps(entry)}))"
    with project.node(f"""console.log({names}.map((name) => `"${{name}}"`).join(" | "))""") as script:
        exported = script.line()
    same = f"""
        import type * as entry from {json.dumps(entry)};
        type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
        export const same: Same<keyof typeof entry, {exported}> = true;
    """
    assert project.complaints("exports.ts", same) == ""


# React

FEED = """
    import { StrictMode, useState } from "react";
    import { createRoot } from "react-dom/client";
    import { connect } from "abide-client";
    import { useChannel } from "abide-client/react";

    export const seen = { states: [], sockets: 0, rooms: ["a"], options: { last: 2, keep: 3 } };
    class Counted extends WebSocket {
        constructor(...given) { super(...given); seen.sockets++; }
    }
    export const abide = connect(location.origin, { WebSocket: Counted, onState: (state) => seen.states.push(state) });
    function Feed({ room, name }) {
        const { messages, status, error, gap } = useChannel(abide, `chat.${room}`, seen.options);
        const text = messages.map(({ data }) => data).join(" ");
        return <p id={name} data-status={status} data-error={error?.code} data-gap={gap?.reason}>{text}</p>;
    }
    function App() {
        const [rooms, setRooms] = useState(seen.rooms);
        seen.show = setRooms;
        return rooms.map((room, number) => <Feed key={number} room={room} name={`feed-${number}`} />);
    }
    document.body.innerHTML = "<main></main>";
    createRoot(document.querySelector("main")).render(<StrictMode><App /></StrictMode>);
"""


@pytest.fixture(scope="module")
def feed(project: NpmProject) -> str:
    """Return a page whose component shows a room's messages; ``bundle.seen`` is what a test sees and sets."""
    return project.bundle(FEED)


def shows(name: str, text: str, status: str = "open") -> str:
    """Return an expression that is true when a component shows this."""
    found = f"document.querySelector('#{name}')"
    return f"{found}?.textContent === {json.dumps(text)} && {found}.dataset.status === {json.dumps(status)}"


def test_use_channel_resumes_and_leaves(
    page: Page, feed: str, server: Server, network: FaultProxy, portal: BlockingPortal
) -> None:
    """Hook shows the newest messages, resumes where it was, shares, changes channels, and leaves on unmount."""
    for number in (1, 2, 3):
        push(server, "chat.a", number)
    page.open(f"http://127.0.0.1:{network.port}/health/live")
    page.run(f"{feed}; window.bundle = bundle")
    page.until(shows("feed-0", "2 3"))
    assert page.run("return [bundle.seen.sockets, bundle.seen.states]") == [1, ["connecting", "open"]]

    portal.call(network.cut)
    push(server, "chat.a", 4)
    page.until(shows("feed-0", "2 3 4"))
    assert page.run("return bundle.seen.states.splice(0)") == ["connecting", "open", "waiting", "connecting", "open"]
    push(server, "chat.a", 5)
    page.until(shows("feed-0", "3 4 5"))

    page.run("bundle.seen.show(['a', 'a', 'b'])")
    page.until(f"{shows('feed-1', '3 4 5')} && {shows('feed-2', '')}")
    page.run("bundle.seen.show(['b'])")
    push(server, "chat.b", "here")
    page.until(shows("feed-0", "here"))
    page.run("bundle.seen.show(['a'])")
    page.until(shows("feed-0", "4 5"))

    page.run("bundle.seen.show([])")
    page.until("bundle.abide.state === 'closed'")
    assert page.run("return [bundle.seen.sockets, refused]") == [2, []]


def test_use_channel_says_what_is_wrong(page: Page, feed: str, server: Server) -> None:
    """Hook returns the error that ends a subscription, a gap, and that the client is closed."""
    page.open(f"{server.url}/health/live")
    page.run(f"{feed}; window.bundle = bundle; await until(() => bundle.seen.show)")
    page.run("bundle.seen.options = { since: 'other:7' }; bundle.seen.show(['wrong/name', 'gap'])")
    page.until("document.querySelector('#feed-0').dataset.error === 'unknown_channel'")
    page.until(shows("feed-0", "", "closed"))
    push(server, "chat.gap", 1)
    page.until(shows("feed-1", "1"))
    assert page.run("return document.querySelector('#feed-1').dataset.gap") == "epoch"
    page.run("bundle.abide.close()")
    page.until(shows("feed-1", "1", "closed"))


def test_use_channel_works_in_react_18(page: Page, project: NpmProject, server: Server) -> None:
    """Hook shows messages and leaves on unmount in the older React that the package allows."""
    script = project.bundle(FEED, "--alias:react=react-18", "--alias:react-dom=react-dom-18")
    assert '"18.' in script
    page.open(f"{server.url}/health/live")
    page.run(f"{script}; window.bundle = bundle; await until(() => bundle.seen.show); bundle.seen.show(['old'])")
    page.until(shows("feed-0", ""))
    push(server, "chat.old", 1)
    page.until(shows("feed-0", "1"))
    page.run("bundle.seen.show([])")
    page.until("bundle.abide.state === 'closed'")
    assert page.run("return refused") == []


# The AI SDK

CHAT = """
    import { StrictMode } from "react";
    import { createRoot } from "react-dom/client";
    import { useChat } from "@ai-sdk/react";
    import { connect } from "abide-client";
    import { AbideChatTransport } from "abide-client/ai";

    const abide = connect(location.origin);
    const transport = new AbideChatTransport({
        client: abide,
        start: async ({ chatId, messages }) => {
            await abide.publish("news", { run: chatId, asked: messages.at(-1).parts[0].text });
            sessionStorage.setItem(chatId, "run");
            return chatId;
        },
        resume: ({ chatId }) => sessionStorage.getItem(chatId) && chatId,
    });
    export const chat = {};
    function Chat({ id }) {
        Object.assign(chat, useChat({ id, resume: true, transport }));
        return chat.messages.map(({ id, role, parts }) => (
            <p key={id} className={role}>{parts.map(({ text }) => text).join("")}</p>
        ));
    }
    export function begin(id) {
        document.body.innerHTML = "<main></main>";
        createRoot(document.querySelector("main")).render(<StrictMode><Chat id={id} /></StrictMode>);
    }
"""

BEGUN = [{"type": "start", "messageId": "answer"}, {"type": "text-start", "id": "0"}]
ENDED = [{"type": "text-end", "id": "0"}, {"type": "finish"}]
ANSWER = "[...document.querySelectorAll('.assistant')].map(({ textContent }) => textContent).join('|')"


def delta(text: str) -> dict[str, str]:
    return {"type": "text-delta", "id": "0", "delta": text}


@pytest.fixture(scope="module")
def chat(project: NpmProject) -> str:
    """Return a page with a chat; ``bundle.begin(id)`` shows it, and ``bundle.chat`` is what useChat returned last."""
    return project.bundle(CHAT)


def open_chat(page: Page, chat: str, server: Server, run: str) -> None:
    page.open(f"{server.url}/health/live")
    page.run(f"{chat}; window.bundle = bundle; bundle.begin({json.dumps(run)})")


def test_use_chat_shows_a_run_and_resumes_it(page: Page, chat: str, server: Server) -> None:
    """Chat of the AI SDK starts a run, shows it as it is written, and shows all of it when the page is reloaded."""
    open_chat(page, chat, server, "one")
    page.run("await until(() => bundle.chat.status === 'ready'); void bundle.chat.sendMessage({ text: 'Who?' })")
    page.until("bundle.chat.status === 'submitted' && sessionStorage.getItem('one')")
    push(server, "run.one", BEGUN)
    push(server, "run.one", [delta("The "), delta("Dude 🎳 ")])
    page.until(f"{ANSWER} === 'The Dude 🎳 ' && bundle.chat.status === 'streaming'")

    open_chat(page, chat, server, "one")
    page.until(f"{ANSWER} === 'The Dude 🎳 ' && bundle.chat.status === 'streaming'")
    push(server, "run.one", delta("<b>abides</b>"))
    push(server, "run.one", ENDED)
    page.until(f"{ANSWER} === 'The Dude 🎳 <b>abides</b>' && bundle.chat.status === 'ready'")

    open_chat(page, chat, server, "one")
    page.until(f"{ANSWER} === 'The Dude 🎳 <b>abides</b>' && bundle.chat.status === 'ready'")
    assert page.run("return refused") == []


def test_use_chat_stops_and_fails(page: Page, chat: str, server: Server) -> None:
    """Chat of the AI SDK stops when it is told to, and says why a run failed."""
    open_chat(page, chat, server, "two")
    page.run("await until(() => bundle.chat.status === 'ready'); void bundle.chat.sendMessage({ text: 'Who?' })")
    push(server, "run.two", [*BEGUN, delta("The ")])
    page.until("bundle.chat.status === 'streaming'")
    page.run("await bundle.chat.stop()")
    page.until("bundle.chat.status === 'ready'")

    open_chat(page, chat, server, "two")
    page.until("bundle.chat.status === 'streaming'")
    push(server, "run.two", {"type": "error", "errorText": "no model"})
    page.until("bundle.chat.status === 'error' && bundle.chat.error.message === 'no model'")


PUBLISHER = """
    import { connect } from "abide-client";
    import { AbideChatTransport, publishRun } from "abide-client/ai";
    import { createUIMessageStream } from "ai";

    const client = connect(process.argv[2]);
    const stream = createUIMessageStream({
        execute: async ({ writer }) => {
            writer.write({ type: "text-start", id: "0" });
            for (const delta of ["The ", "Dude ", "abides"]) writer.write({ type: "text-delta", id: "0", delta });
            writer.write({ type: "text-end", id: "0" });
        },
    });
    await publishRun(client, "run.three", stream, { key: "three" });
    const broken = async function* () {
        yield { type: "start" };
        throw new Error("the model is gone");
    };
    await publishRun(client, "run.four", broken());
    const transport = new AbideChatTransport({ client, start: ({ chatId }) => chatId });
    for (const chatId of ["three", "four"]) {
        const chunks = [];
        const stream = await transport.sendMessages({ chatId });
        for await (const { delta, errorText, type } of stream) chunks.push(delta ?? errorText ?? type);
        console.log(chunks.join(","));
    }
    console.log(await transport.reconnectToStream({ chatId: "three" }));
    for (const [run, message] of Object.entries({ five: "The Dude", six: [null], seven: {} })) {
        await client.publish(`run.${run}`, message);
        const chunks = await transport.sendMessages({ chatId: run });
        console.log(await chunks.getReader().read().catch((error) => error.message));
    }
"""


def test_a_run_is_published_in_arrays(project: NpmProject, server: Server) -> None:
    """Application's run is published in arrays, has an end in any case, and is read to that end."""
    with project.node(PUBLISHER, server.url) as script:
        assert script.line() == "text-start,The ,Dude ,abides,text-end,finish"
        assert script.line() == "start,the model is gone"
        assert script.line() == "null"
        assert [script.line() for _ in range(4)] == [
            *(f"run {run} has a message that is no chunk" for run in ("five", "six", "seven")),
            None,
        ]
    messages = httpx.get(f"{server.url}/run.three/history").json()["messages"]
    assert len(messages) < 6
    assert all(isinstance(message["data"], list) for message in messages)
