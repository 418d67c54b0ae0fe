/** The console page: the list of channels, one live channel, and snippets that use it. */

import { connect } from "./client.js";

const LIST_EVERY = 2000; // milliseconds between two requests for the list
const LIST_PATIENCE = 10_000; // milliseconds until the answer must have arrived
const SECONDS = 60; // in a chart
const ROWS = 200; // messages shown
const DRAW_EVERY = 100; // milliseconds; one layout for each message would be too slow
const SHOWN = 4000; // characters of one message
const BACKLOG = 20; // older messages that are shown
const BLANKS = /("(?:[^"\\]|\\.)*")|\s+/g; // between the tokens of JSON; strings are left alone
const NAME = /^[A-Za-z0-9_.:|@+=~'-]{1,255}$/; // a channel's name

const byId = (id) => document.getElementById(id);
const base = new URL("..", import.meta.url).href.replace(/\/$/, ""); // works under any path of a proxy

let key = "";
let chosen = null;
let unsubscribe = () => {};
let declared = [];
const heads = new Map(); // the channels' newest offsets when the list was last read
let listedAt = 0;

let abide = connect(base, { onState: showState });

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function showState(state, { transport, delay, reason }) {
  const texts = {
    open: transport === "sse" ? "connected by SSE" : "connected",
    waiting: `${reason}; trying again in ${((delay ?? 0) / 1000).toFixed(1)} s`,
    connecting: "connecting …",
    closed: "not connected",
  };
  byId("state").textContent = texts[state];
  byId("state").dataset.state = state;
}

// ---- the list

let listing; // the timer of the next request

async function list() {
  clearTimeout(listing);
  try {
    const response = await fetch(`${base}/channels`, { headers: key ? { authorization: `Bearer ${key}` } : {}, signal: AbortSignal.timeout(LIST_PATIENCE) });
    const body = await response.json();
    byId("list-problem").textContent = response.ok || (response.status === 401 && !key) ? "" : body.detail;
    if (response.status === 401) byId("key-form").hidden = false;
    if (response.status === 401 || response.status === 403) return; // until the user enters another key
    if (response.ok) showList(body.channels);
  } catch {
    byId("list-problem").textContent = "the server does not answer";
  }
  listing = setTimeout(list, LIST_EVERY);
}

function showList(channels) {
  const now = performance.now();
  const seconds = (now - listedAt) / 1000;
  const focused = document.activeElement?.dataset?.channel;
  const rows = channels.map(({ name, subscribers, head }) => {
    const before = heads.get(name);
    const known = head !== null && before !== undefined && head >= before;
    const rate = known ? ((head - before) / seconds).toFixed(1) : "–";
    const button = element("button", { type: "button", textContent: name, onclick: () => choose(name) });
    button.dataset.channel = name;
    button.setAttribute("aria-current", String(name === chosen));
    const cells = [element("td", {}, button), element("td", {}, String(subscribers)), element("td", {}, rate)];
    return element("tr", {}, ...cells);
  });
  byId("list").replaceChildren(...rows);
  if (focused) byId("list").querySelector(`[data-channel="${CSS.escape(focused)}"]`)?.focus();
  heads.clear();
  for (const { name, head } of channels) if (head !== null) heads.set(name, head);
  listedAt = now;
  declared = channels;
  if (chosen) showPolicy();
}

// ---- the chosen channel

function choose(name) {
  if (name.includes("{")) {
    byId("watch").value = name.slice(0, name.indexOf("{"));
    byId("watch").focus();
    return;
  }
  if (!NAME.test(name)) return; // a link may contain any text
  unsubscribe();
  chosen = name;
  location.hash = encodeURIComponent(name);
  byId("channel").hidden = false;
  byId("channel-title").textContent = name;
  byId("messages").replaceChildren();
  byId("published").textContent = "";
  for (const button of byId("list").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.dataset.channel === name));
  }
  begin();
  showPolicy();
  showSnippets();
  unsubscribe = abide.subscribe(name, {
    last: BACKLOG,
    onMessage: received,
    onGap: ({ reason, after, next }) => addRow(gapRow(`gap: ${reason}, after ${after}, next ${next}`)),
    onError: (error) => {
      addRow(gapRow(error.message));
      askForKey(error);
    },
  });
}

function showPolicy() {
  const channel = declared.find(({ name }) => name === chosen);
  byId("policy").textContent = channel
    ? `publish: ${channel.publish} · subscribe: ${channel.subscribe} · client_publish: ${channel.client_publish} · ` +
      `history: ${channel.history.size} messages, ${channel.history.ttl} s`
    : "";
}

let pending = [];
let drawing = false;

function received({ time, position, raw }) {
  count(time);
  const text = raw.slice(0, 2 * SHOWN).replace(BLANKS, "$1");
  const shown = text.length > SHOWN ? `${text.slice(0, SHOWN)} …` : text;
  const at = time === undefined ? new Date() : new Date(time);
  addRow(() =>
    element(
      "li",
      {},
      element("time", { dateTime: at.toISOString() }, at.toTimeString().slice(0, 8), `.${at.toISOString().slice(20, 23)}`),
      element("span", { className: "offset", title: position }, position.split(":")[1]),
      element("span", { className: "data" }, shown),
    ),
  );
}

const gapRow = (text) => () => element("li", { className: "gap" }, element("span", {}, text));

function addRow(row) {
  pending.push(row);
  if (pending.length > ROWS) pending.shift();
  if (!drawing) {
    drawing = true;
    setTimeout(draw, DRAW_EVERY);
  }
}

function draw() {
  drawing = false;
  const rows = byId("messages");
  rows.prepend(...pending.reverse().map((row) => row()));
  pending = [];
  while (rows.childElementCount > ROWS) rows.lastElementChild.remove();
}

// ---- the charts: one bucket for each second, oldest first

let buckets = [];
let liveSince = 0;

function begin() {
  pending = [];
  buckets = Array.from({ length: SECONDS }, emptyBucket);
  liveSince = Date.now();
}

const emptyBucket = () => ({ count: 0, timed: 0, latency: 0 });

function count(time) {
  if (time !== undefined && time < liveSince - 1000) return; // published before this page subscribed
  const bucket = buckets.at(-1);
  bucket.count++;
  if (time !== undefined) {
    bucket.timed++;
    bucket.latency += Math.max(0, Date.now() - time); // clocks differ
  }
}

function tick() {
  if (!chosen) return;
  const last = buckets.at(-1);
  const latency = ({ timed, latency: sum }) => (timed ? sum / timed : 0);
  plot("rate-chart", buckets.map((bucket) => bucket.count));
  plot("latency-chart", buckets.map(latency));
  byId("rate-now").textContent = String(last.count);
  byId("latency-now").textContent = last.timed ? latency(last).toFixed(1) : "–";
  buckets.push(emptyBucket());
  buckets.shift();
}

function plot(id, values) {
  const most = Math.max(1, ...values);
  const bar = (value, index) => {
    const height = (value / most) * 46;
    return value ? `M${index * 4} 48v${-height}h3v${height}z` : "";
  };
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", values.map(bar).join(""));
  byId(id).replaceChildren(path);
}

// ---- publishing

async function publish(event) {
  event.preventDefault();
  const text = byId("data").value;
  let raw = text;
  try {
    JSON.parse(text);
  } catch {
    raw = JSON.stringify(text); // publish plain text as a JSON string
  }
  const output = byId("published");
  try {
    const position = await abide.publish(chosen, undefined, { raw });
    output.className = "";
    output.textContent = `stored at ${position}`;
  } catch (error) {
    output.className = "problem";
    output.textContent = error.message;
    askForKey(error);
  }
}

/** Ask for a key or a token when the server refused the one there is, or wants one. */
function askForKey({ code }) {
  if (code === "unauthorised" || code === "expired") byId("key-form").hidden = false;
}

// ---- snippets

function showSnippets() {
  const policy = declared.find(({ name }) => name === chosen)?.publish;
  const needsKey = policy === "key" || (policy === "operators" && key !== "");
  const authorization = needsKey ? "-H 'authorization: Bearer <key>' " : "";
  const path = encodeURIComponent(chosen);
  const literal = JSON.stringify; // a literal in JavaScript and in Python, which read the same escapes
  const texts = {
    publish: `curl ${authorization}-H 'content-type: application/json' -d '{"hello":"world"}' ` + shell(`${base}/push/${path}`),
    subscribe: `curl -N -H 'accept: text/event-stream' ${shell(`${base}/${path}?last=10`)}`,
    JavaScript: `import { connect } from ${literal(`${base}/client.js`)};

const abide = connect(${literal(base)});
abide.subscribe(${literal(chosen)}, { onMessage: ({ data }) => console.log(data) });`,
    Python: `import asyncio, websockets


async def main():
    async for socket in websockets.connect(${literal(`${base.replace(/^http/, "ws")}/${path}`)}):
        try:
            async for message in socket:
                print(message)
        except websockets.ConnectionClosed:
            continue


asyncio.run(main())`,
  };
  byId("snippets").replaceChildren(...Object.entries(texts).map(([title, text]) => snippet(title, text)));
}

/** Quote a word for a POSIX shell: between single quotes, only the quote itself is special. */
const shell = (word) => `'${word.replaceAll("'", `'\\''`)}'`;

function snippet(title, text) {
  const pre = element("pre", { textContent: text });
  const button = element("button", { type: "button", textContent: "Copy", ariaLabel: `Copy: ${title}` });
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection()?.selectAllChildren(pre); // without TLS, only the user can copy
    }
  };
  return element("div", { className: "snippet" }, element("h4", { textContent: title }), pre, button);
}

byId("publish-form").onsubmit = publish;
byId("watch-form").onsubmit = (event) => {
  event.preventDefault();
  choose(byId("watch").value);
};
byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  key = byId("key").value;
  abide.close();
  abide = connect(base, { token: key, onState: showState });
  list();
  if (chosen) choose(chosen);
};
setInterval(tick, 1000);
list();
try {
  if (location.hash.length > 1) choose(decodeURIComponent(location.hash.slice(1)));
} catch {
  // not a valid link
}
