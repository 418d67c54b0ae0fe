/**
 * Abide's client for browsers and Node 20: any number of channels over one WebSocket, resumed by position; or over SSE.
 *     const abide = connect("http://localhost:8000");
 *     const unsubscribe = abide.subscribe("lebowski", { onMessage: ({ data }) => console.log(data) });
 *     await abide.publish("lebowski", { hello: "world" });
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 * @typedef {{ channel: string, position: string, time?: number, data?: any, raw: string }} Message  `raw` is as published
 * @typedef {{ channel: string, after: string, next: string, reason: string }} Gap
 * @typedef {{ token?: string | (() => string | Promise<string>), WebSocket?: typeof globalThis.WebSocket | null,
 *   onState?: (state: State, detail: { transport?: string, delay?: number, reason?: string }) => void }} ConnectOptions
 *   a function returns a new token whenever one is needed; `WebSocket: null` means event streams
 * @typedef {{ since?: string, last?: number, onMessage?: (message: Message) => void, onGap?: (gap: Gap) => void,
 *   onError?: (error: AbideError) => void, onSubscribed?: (position: string, resumed: boolean) => void,
 *   onState?: ConnectOptions["onState"] }} SubscribeOptions
 *   `since` is a position or "earliest"; messages continue after a gap; an error ends the subscription
 */

const [FIRST_DELAY, LONGEST_DELAY, STEADY] = [500, 30_000, 5000]; // milliseconds, like all of these; reset when steady
const [PATIENCE, PUBLISHING, LONGEST_WAIT, SECOND] = [15_000, 30_000, 60_000, 1000]; // of an answer, a publish, a Retry-After
const PASSING = [408, 425, 429, 1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 4429]; // and statuses from 500 on
const REFUSED = [401, 4401, 4408]; // which another token may pass
const CLOSED = { 4400: "malformed", 4401: "unauthorised", 4403: "forbidden", 4404: "channel_removed", 4408: "expired" };
const HEADER_TOKEN = /^[\w!#$%&'*+.^`|~-]+$/; // what RFC 9110 allows in Sec-WebSocket-Protocol
const TOKEN = /^[\x20-\x7e]*$/; // what a header can hold
const [POSITION, NEEDED] = [/^[^:]+:\d+$/, { message: "position", subscribed: "position", gap: "next" }]; // in a frame
const NO_FRAME = "the server sent something that is no frame of abide.v1";
const HANDLERS = "subscribe takes options, such as { onMessage: ({ data }) => console.log(data) }";
const MESSAGE = /^\{"type":"message","channel":"([^"]*)","position":(?:"([^"]*)"|null),"time":(\d+),"data":/;

/** The position of everything where the server keeps no messages. To resume from it is to be told of a gap. */
export const NOWHERE = "live:0";

/** Why the server refused: a `code` of docs/codes.md, the HTTP status or close code, a `pointer` to what misfits a schema. */
export class AbideError extends Error {
  constructor(code, message, status, { wait = 0, pointer } = {}) {
    Object.assign(super(message), { name: "AbideError", code, status, wait, pointer });
  }
}

/** Make a client. It connects with the first subscription. Throws TypeError if `address` is none.
 * @param {string} address @param {ConnectOptions} [options] */
export function connect(address, { token: source, WebSocket = globalThis.WebSocket, onState } = {}) {
  const [url, tokens] = [addressOf(address), tokensOf(source)];
  const subscriptions = new Map(); // by channel
  let blocked = "no"; // do WebSockets not open here? "maybe", if one did not; "yes", if the server answered before
  let [turn, failures, openedAt, notBefore, ids, transport, timer] = [0, 0, 0, 0, 0]; // callbacks of earlier turns are ignored
  const client = { /** @type {State} */ state: "closed", subscribe, publish, close };
  const drop = (each) => subscriptions.get(each.channel) === each && subscriptions.delete(each.channel);
  const say = (state, detail = {}, told = [...subscriptions.values()]) => {
    client.state = state;
    for (const each of [{ onState }, ...told]) each.onState?.(state, detail);
  };
  const wakes = (does) => ["online", "pageshow", "visibilitychange"].forEach((event) => globalThis[does]?.(event, wake));
  return client;

  /** Subscribe until the returned function is called. After an interruption it resumes, or calls `onGap`. An error that ends it
   * goes to the browser's console where there is no `onError`.
   * @param {string} channel @param {SubscribeOptions} [options] @returns {() => void} */
  function subscribe(channel, options = {}) {
    if (typeof options === "function") throw new TypeError(HANDLERS);
    if (subscriptions.has(channel)) throw new Error(`${channel} is subscribed to already`);
    const onError = options.onError ?? (({ message }) => console.error(`abide: ${channel}: ${message}`));
    const subscription = { ...options, onError, id: ++ids, channel, position: null, live: false, refused: false };
    subscriptions.set(channel, subscription);
    wakes("addEventListener");
    if (client.state === "closed") open();
    else if (client.state === "open") transport?.subscribe(subscription);
    const leaves = () => (subscriptions.size === 0 ? close() : client.state === "open" && transport?.unsubscribe(subscription));
    return () => drop(subscription) && leaves();
  }

  /** Publish data, or the JSON text `raw`, and return the message's position; retries store it once; `key` is for idempotency.
   * @param {string} channel @param {any} data @param {{ key?: string, raw?: string }} [options] @returns {Promise<string>} */
  async function publish(channel, data, { key = randomKey(), raw: body = JSON.stringify(data) } = {}) {
    if (body === undefined) throw new TypeError("a message must be JSON");
    for (let [attempt, end, renewed, token] = [1, Date.now() + PUBLISHING]; ; attempt++) {
      try {
        token = await tokens.get();
        const headers = { "content-type": "application/json", "idempotency-key": key, ...bearer(token) };
        const { position } = (await ask(`${url}/push/${encodeURIComponent(channel)}`, { method: "POST", headers, body })) ?? {};
        if (position === undefined) throw new AbideError("refused", `the answer of ${url} has no position: is it Abide's?`, 200);
        return position ?? NOWHERE;
      } catch (error) {
        const wait = Math.max(jitter(attempt), error.wait);
        const again = passes(error) || (error.status === 401 && !renewed && (renewed = tokens.renews(token)));
        if (!again || Date.now() + wait > end) throw error;
        await pause(wait);
      }
    }
  }

  /** End all subscriptions, and the connection. */
  function close() {
    const told = [...subscriptions.values()];
    subscriptions.clear();
    wakes("removeEventListener");
    leave();
    say("closed", {}, told);
  }

  /** Do at once what timers would do late: the network is back, or the page is visible again, perhaps after a sleep. */
  function wake() {
    if (client.state === "open") transport?.look();
    else if (client.state === "waiting" && !globalThis.document?.hidden && Date.now() > notBefore) open();
  }

  function leave() {
    turn++;
    clearTimeout(timer);
    transport?.close();
    transport = null;
    for (const subscription of subscriptions.values()) subscription.live = false;
  }

  async function open() {
    leave();
    say("connecting");
    let [mine, answers, token] = [turn, false];
    const inTurn = (call) => (...told) => mine === turn && call(...told);
    const opened = inTurn((name) => {
      clearTimeout(timer);
      openedAt = Date.now();
      subscriptions.forEach(transport.subscribe);
      say("open", { transport: name });
    });
    const lost = inTurn((reason, wait = 0) => {
      blocked = client.state === "open" ? "no" : answers ? "yes" : "maybe";
      failures = client.state === "open" && Date.now() - openedAt > STEADY ? 1 : failures + 1;
      leave();
      const delay = Math.max(wait, blocked === "yes" ? 0 : jitter(failures)); // event streams: at once
      notBefore = Date.now() + wait;
      timer = setTimeout(open, delay);
      say("waiting", { delay, reason });
    });
    /** Come back if that may help, once with another token; all other subscriptions of these are over. */
    const failed = inTurn((failing, error) => {
      const renews = REFUSED.includes(error.status) && (tokens.renews(token) || (!source && error.status === 4408)); // a cookie
      const over = failing.filter((each) => !passes(error) && !(renews && !each.refused && (each.refused = true)));
      for (const each of over) drop(each) && each.onError(error);
      if (over.length < failing.length) lost(error.message, error.wait);
      else if (subscriptions.size === 0 && client.state !== "closed") close();
    });
    timer = setTimeout(lost, PATIENCE, `not connected within ${PATIENCE / 1000} s`);
    try {
      answers = blocked === "maybe" && (await ask(`${url}/health/live`).then(() => true, (error) => !passes(error)));
      token = await tokens.get();
      if (mine !== turn) return;
      const bySocket = WebSocket && blocked !== "yes" && HEADER_TOKEN.test(token || "none");
      transport = (bySocket ? openSocket : openStreams)({ WebSocket, url, token, tokens, subscriptions, opened, lost, failed });
    } catch (error) {
      failed([...subscriptions.values()], error);
    }
  }
}

/** The server's address without a slash at its end; a page may leave out what its own address has. */
function addressOf(address) {
  const url = tried(() => new URL(String(address).replace(/^ws/, "http"), globalThis.location?.href));
  if (/^https?:$/.test(url?.protocol)) return url.href.replace(/\/+$/, "");
  throw new TypeError(`'${address}' is not a server's address: expected http://host:port`);
}

/** `get` returns the token in use, or a new one if that ends soon or was refused; `renews` is told of a refused one and says
 * whether there may be another; `wait` returns the milliseconds until an open connection needs a new one. */
function tokensOf(source) {
  if (typeof source !== "function") return { get: async () => source, renews: () => false, wait: () => Infinity };
  let [due, asked, strikes, ends, life, held, refused, asking] = [0, 0, 0]; // strikes: failures before it first worked
  const ask = async () => {
    await pause(Math.min(asked + SECOND - Date.now(), SECOND)); // at most one call a second
    asked = Date.now();
    try {
      const fresh = await Promise.race([source(), late()]);
      strikes = fresh && fresh === refused ? Infinity : -Infinity;
      if (strikes > 0) throw new Error("the function returned the token that was refused");
      const { exp, iat = asked / 1000 } = claims(fresh);
      [held, life, ends] = [fresh, (exp - iat) * 1000, Math.min(exp, asked / 1000 + exp - iat) * 1000]; // clocks may differ
    } catch (error) {
      const reason = `no token: ${error?.message ?? error}`;
      if (++strikes > 1 || !held || held === refused) throw new AbideError("unauthorised", reason, strikes > 1 ? 401 : 503);
    }
    const left = ends - Date.now();
    due = left > SECOND ? ends - Math.max(SECOND, Math.random() * Math.min(life / 10, left)) : asked + SECOND;
  };
  const get = async () => { if (Date.now() >= due) await (asking ??= ask().finally(() => (asking = null))); return held; };
  const renews = (token) => { if (token === held) [refused, due] = [token, 0]; return Boolean(token); };
  return { get, renews, wait: () => (ends > Date.now() ? due - Date.now() : Infinity) };
}

/** One WebSocket that speaks abide.v1, for all channels. */
function openSocket({ WebSocket, url, token, tokens, subscriptions, opened, lost, failed }) {
  const protocols = token ? ["abide.v1", `bearer.${token}`] : ["abide.v1"];
  const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws?heartbeat=true`, protocols);
  const send = (frame) => socket.send(JSON.stringify(frame));
  const watch = watching(lost);
  const take = (frame) => {
    if (!isFrame(frame)) return lost(NO_FRAME);
    const { type, id, ...members } = frame;
    const { channel, code, message, status, seconds } = members;
    watch.hear(seconds);
    const subscription = subscriptions.get(channel);
    if (!subscription) return;
    // Until it is live, frames are of an earlier subscription to the same channel.
    if (type === "subscribed" && id === subscription.id) begin(subscription, members);
    else if (type === "message" && subscription.live) moved(subscription, members.position).onMessage?.(members);
    else if (type === "gap" && subscription.live) skip(subscription, members);
    else if (type === "unsubscribed" && subscription.live) failed([subscription], closedWith(code, `${channel} ended`));
    else if (type === "error" && id === subscription.id) failed([subscription], new AbideError(code, message, status));
  };
  let renewal;
  const plan = () => { if (tokens.wait() < 2 ** 31) renewal = setTimeout(renew, tokens.wait()); }; // the longest timer
  const renew = async () => {
    const fresh = (await tokens.get().catch(() => token)) || token;
    if (socket.readyState === 1 && fresh !== token) send({ type: "token", token: (token = fresh) });
    if (socket.readyState === 1) plan();
  };
  socket.onopen = () => { opened("websocket"); plan(); };
  const closed = (error) => { failed([...subscriptions.values()], error); lost(error.message); };
  socket.onclose = ({ code, reason }) => closed(closedWith(code, reason));
  socket.onerror = () => socket.readyState === 1 || lost("the WebSocket failed"); // Node may not close it
  socket.onmessage = ({ data: text }) => {
    const [start, channel, position = NOWHERE, time] = MESSAGE.exec(text) ?? [];
    const raw = start && text.slice(start.length, -1); // which may not be JSON
    take(start ? { type: "message", channel, position, time: Number(time), data: parse(raw), raw } : parse(text));
  };
  const subscribe = ({ id, channel, position, since, last }) => {
    send({ type: "subscribe", id, channel, since: position ?? since, last });
    const waits = () => subscriptions.get(channel)?.id === id && !subscriptions.get(channel).live;
    setTimeout(() => waits() && lost(`no answer for ${channel}`), PATIENCE).unref?.(); // it does not keep Node running
  };
  const close = () => { watch.stop(); clearTimeout(renewal); socket.onmessage = null; socket.close(); };
  return { subscribe, close, look: watch.look, unsubscribe: ({ channel }) => send({ type: "unsubscribe", channel }) };
}

/** One event stream per channel, by fetch: Node has no EventSource, which would need the token in the URL. */
function openStreams({ url, token, subscriptions, opened, lost, failed }) {
  const streams = new Map(); // by subscription: what watches each, and what ends it
  // What refuses this may be a proxy, or no server of ours: the answers to the streams tell.
  ask(`${url}/health/live`).then(() => opened("sse"), (error) => (passes(error) ? lost(error.message, error.wait) : opened("sse")));
  const take = (subscription, watch, { event, id, data: raw }) => {
    const { channel, since, live } = subscription;
    const [data, position] = [parse(raw), id ?? NOWHERE];
    if (event && !isFrame({ ...data, type: event })) return lost(NO_FRAME);
    const resumed = event !== "gap" && id === (subscription.position ?? since);
    if (id && !live) begin(subscription, { position, resumed });
    if (event === "heartbeat") watch.hear(data.seconds);
    else if (event === "gap") skip(subscription, data);
    else if (event !== "closed") raw && moved(subscription, position).onMessage?.({ channel, position, data, raw });
    else failed([subscription], closedWith(data?.code, data?.message));
  };
  const subscribe = async (subscription) => {
    const { channel, position, since, last = 0 } = subscription;
    const query = new URLSearchParams({ ...(position || since ? { since: position ?? since } : { last }), heartbeat: true });
    const [stream, watch] = [new AbortController(), watching(lost)];
    const end = () => { streams.delete(subscription); watch.stop(); stream.abort(); };
    const over = () => stream.signal.aborted || subscriptions.get(channel) !== subscription;
    streams.set(subscription, { look: watch.look, end });
    try {
      const headers = { accept: "text/event-stream", ...bearer(token) };
      const { body } = await request(`${url}/${encodeURIComponent(channel)}?${query}`, { headers, signal: stream.signal });
      // In a microtask, so that an error of a handler does not end the stream.
      for await (const event of events(body, watch)) queueMicrotask(() => over() || take(subscription, watch, event));
      over() || lost("the event stream ended");
    } catch (error) {
      over() || failed([subscription], error);
    }
    end();
  };
  const all = (does) => () => streams.forEach((stream) => stream[does]());
  return { subscribe, unsubscribe: (left) => streams.get(left)?.end(), look: all("look"), close: all("end") };
}

/** Gives up a silent connection, at first after PATIENCE, then when two heartbeats are missing. An old server has none. */
function watching(lost) {
  let [limit, first, heard, timer] = [PATIENCE, Infinity, Date.now()];
  const look = () => {
    clearTimeout(timer);
    heard = Math.min(heard, Date.now()); // the clock may have been set back
    const left = heard + limit - Date.now();
    if (left <= 0) lost(`nothing came for ${limit / 1000} s`);
    else if (left < Infinity) timer = setTimeout(look, left);
  };
  const hear = (seconds = first) => { [heard, first] = [Date.now(), 0]; if (seconds) { limit = 2000 * seconds; look(); } };
  look();
  return { look, hear, stop: () => clearTimeout(timer) };
}

function begin(subscription, { position: given, resumed }) {
  const position = given ?? NOWHERE;
  // If a gap follows, keep the old position until it arrives: the connection may break in between.
  if (resumed || !(subscription.position ?? subscription.since)?.includes(":")) subscription.position = position;
  Object.assign(subscription, { live: true, refused: false });
  subscription.onSubscribed?.(position, resumed);
}
function skip(subscription, { channel, after: had, next: following, reason }) {
  const [after, next] = [had ?? NOWHERE, following ?? NOWHERE];
  const [epoch, offset] = next.split(":");
  moved(subscription, next === NOWHERE ? next : `${epoch}:${offset - 1}`).onGap?.({ channel, after, next, reason });
}
const moved = (subscription, position) => Object.assign(subscription, { position });
/** Full jitter, up to a bound that doubles, so that thousands do not come back at the same time. */
const jitter = (failures) => Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1));
const bearer = (token) => {
  if (!TOKEN.test(token || "")) throw new AbideError("unauthorised", "a key and a token may hold visible ASCII characters only", 401);
  return token ? { authorization: `Bearer ${token}` } : {};
};
const closedWith = (code, text) => new AbideError(CLOSED[code] ?? "refused", text || `closed with ${code}`, code);
const unreachable = (failed) => ({ message, cause }) => {
  throw new AbideError("unreachable", `${failed}: ${cause?.message || cause?.code || message}`); // Node has it in the cause
};
/** Whether a retry may help; without a status the server was not reached. Too many subscriptions stay too many. */
const passes = ({ code, status = 503, wait }) => (PASSING.includes(status) || /^5..$/.test(status)) && (code !== "too_many" || wait);
/** The milliseconds of a Retry-After, which is in seconds or a date. */
const waitOf = (after) => Math.min(Math.max((after > 0 ? after * 1000 : Date.parse(after) - Date.now()) || 0, 0), LONGEST_WAIT);
/** A unique key; randomUUID is missing on pages without TLS. */
const randomKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-");
const pause = (wait) => new Promise((resolve) => setTimeout(resolve, wait));
const late = () => new Promise((_, reject) => setTimeout(reject, PATIENCE, `none within ${PATIENCE / 1000} s`).unref?.());
const tried = (make) => { try { return make(); } catch { return undefined; } };
const isPosition = (text) => text === null || POSITION.test(text);
const isFrame = (frame) => {
  const { type, seconds } = frame ?? {};
  return typeof type === "string" && (type !== "heartbeat" || seconds > 0) && (!NEEDED[type] || isPosition(frame[NEEDED[type]]));
};
const parse = (text) => tried(() => JSON.parse(text));
/** What a token says; it is read, not verified. */
const claims = (token) => parse(tried(() => atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")))) ?? {};
const limited = (options) => ({ ...options, signal: AbortSignal.timeout(PATIENCE) });
const ask = async (url, options) => (await request(url, limited(options))).json().catch(unreachable(`cannot read the answer of ${url}`));

async function request(url, options) {
  const response = await fetch(url, options).catch(unreachable(`cannot reach ${new URL(url).origin}`));
  if (response.ok) return response;
  const { code = "refused", detail = response.statusText, pointer } = (await response.json().catch(() => null)) ?? {};
  throw new AbideError(code, detail, response.status, { wait: waitOf(response.headers.get("retry-after")), pointer });
}

/** The events of a stream, as this server writes them: one line per field. An incomplete one is dropped. */
async function* events(body, watch) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", read; !(read = await reader.read()).done; ) {
    watch.hear();
    const texts = (rest + read.value).split("\n\n");
    rest = texts.pop();
    for (const text of texts) yield Object.fromEntries(text.split("\n").map((line) => line.split(/: ?(.*)/s)));
  }
}
