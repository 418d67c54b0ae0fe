/**
 * Abide's client for browsers and Node 20: any number of channels over one WebSocket, resumed by position; or over SSE.
 *
 *     const abide = connect("http://localhost:8000");
 *     const unsubscribe = abide.subscribe("lebowski", { onMessage: ({ data }) => console.log(data) });
 *     await abide.publish("lebowski", { hello: "world" });
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 * @typedef {{ channel: string, position: string, time?: number, data: any, raw: string }} Message  `raw` is the text that
 *   was published, `data` is undefined if it cannot be parsed; `time` is missing over SSE
 * @typedef {{ channel: string, after: string, next: string, reason: string }} Gap
 * @typedef {{ token?: string | (() => string | Promise<string>), WebSocket?: typeof globalThis.WebSocket | null,
 *   onState?: (state: State, detail: { transport?: string, delay?: number, reason?: string }) => void }} ConnectOptions
 *   a function returns a token for each connection and publish; `WebSocket: null` means event streams
 * @typedef {{ since?: string, last?: number, onMessage?: (message: Message) => void, onGap?: (gap: Gap) => void,
 *   onError?: (error: AbideError) => void, onSubscribed?: (position: string, resumed: boolean) => void }} SubscribeOptions
 *   `since` is a position or "earliest"; messages continue after a gap; an error ends the subscription
 */

const [FIRST_DELAY, LONGEST_DELAY] = [500, 30_000]; // milliseconds, like all of these; doubled with every failure
const STEADY = 5000; // a connection that lasted this long resets the delays
const PATIENCE = 15_000; // for an answer to anything: a connection, a request, a subscription
const [PUBLISHING, LONGEST_WAIT] = [30_000, 60_000]; // how long a publish is retried, and the longest Retry-After
const PASSING = [408, 425, 429, 1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 4408]; // and statuses from 500 on
const CLOSED = { 4400: "malformed", 4401: "unauthorised", 4403: "forbidden", 4404: "channel_removed" };
const HEADER_TOKEN = /^[\w!#$%&'*+.^`|~-]+$/; // what RFC 9110 allows in Sec-WebSocket-Protocol
const MESSAGE = /^\{"type":"message","channel":"([^"]*)","position":"([^"]*)","time":(\d+),"data":/;

/** Why the server refused: `code` is one of docs/codes.md, `status` an HTTP status or a close code. */
export class AbideError extends Error {
  constructor(code, message, status, wait = 0) {
    Object.assign(super(message), { name: "AbideError", code, status, wait });
  }
}

/** Make a client. It connects with the first subscription. @param {string} url @param {ConnectOptions} [options] */
export const connect = (url, options = {}) => new Client(url.replace(/^ws/, "http").replace(/\/+$/, ""), options);

class Client {
  #url; #options; #transport; #timer;
  #subscriptions = new Map(); // by channel
  #turn = 0; // counts connections; callbacks of earlier ones are ignored
  #blocked = "no"; // do WebSockets not open here? "maybe", if one did not; "yes", if the server answered before
  #notBefore = 0; // when the server allows the next attempt
  #failures = 0; #openedAt = 0; #ids = 0;
  /** @type {State} */ state = "closed";

  constructor(url, options) {
    this.#url = url;
    this.#options = { WebSocket: globalThis.WebSocket, ...options };
    for (const woken of ["online", "pageshow", "visibilitychange"]) globalThis.addEventListener?.(woken, () => this.#wake());
  }

  /** Subscribe until the returned function is called. After an interruption it resumes, or calls `onGap`.
   * @param {string} channel @param {SubscribeOptions} [options] @returns {() => void} */
  subscribe(channel, options = {}) {
    if (this.#subscriptions.has(channel)) throw new Error(`${channel} is subscribed to already`);
    const subscription = { ...options, id: ++this.#ids, channel, position: null, live: false };
    this.#subscriptions.set(channel, subscription);
    if (this.state === "closed") this.#open();
    else if (this.state === "open") this.#transport?.subscribe(subscription);
    return () => {
      if (this.#subscriptions.get(channel) !== subscription) return;
      this.#subscriptions.delete(channel);
      if (this.#subscriptions.size === 0) this.close();
      else if (this.state === "open") this.#transport?.unsubscribe(subscription);
    };
  }

  /** Publish data, or the JSON text `raw`, and return the message's position; retries store it only once.
   * @param {string} channel @param {any} data @returns {Promise<string>}
   * @param {{ key?: string, raw?: string }} [options]  `key` is an idempotency key */
  async publish(channel, data, { key = randomKey(), raw: body = JSON.stringify(data) } = {}) {
    if (body === undefined) throw new TypeError("a message must be JSON");
    const end = Date.now() + PUBLISHING;
    for (let attempt = 1; ; attempt++) {
      const headers = { "content-type": "application/json", "idempotency-key": key, ...bearer(await this.#token()) };
      try {
        return (await ask(`${this.#url}/push/${encodeURIComponent(channel)}`, { method: "POST", headers, body })).position;
      } catch (error) {
        const pause = Math.max(jitter(attempt), error.wait);
        if (!passes(error) || Date.now() + pause > end) throw error;
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }
  }

  /** End all subscriptions, and the connection. */
  close() {
    this.#subscriptions.clear();
    this.#leave();
    this.#say("closed");
  }

  #token = async () => (typeof this.#options.token === "function" ? this.#options.token() : this.#options.token);
  #say = (state, detail = {}) => Object.assign(this, { state }).#options.onState?.(state, detail);

  /** Do at once what timers would do late: the network is back, or the page is visible again, perhaps after a sleep. */
  #wake() {
    if (this.state === "open") this.#transport?.look();
    else if (this.state === "waiting" && !globalThis.document?.hidden && Date.now() > this.#notBefore) this.#open();
  }

  #leave() {
    this.#turn++;
    clearTimeout(this.#timer);
    this.#transport?.close();
    this.#transport = null;
    for (const subscription of this.#subscriptions.values()) subscription.live = false;
  }

  async #open() {
    this.#leave();
    this.#say("connecting");
    const [turn, url, subscriptions, { WebSocket }] = [this.#turn, this.#url, this.#subscriptions, this.#options];
    const inTurn = (call) => (...told) => turn === this.#turn && call(...told);
    let answers = false;
    const lost = inTurn((reason, wait) => this.#lost(reason, wait, answers));
    const opened = inTurn((transport) => this.#opened(transport));
    const ended = inTurn((subscription, error) => this.#ended(subscription, error));
    this.#timer = setTimeout(lost, PATIENCE, `not connected within ${PATIENCE / 1000} s`);
    try {
      answers = this.#blocked === "maybe" && (await ask(`${url}/health/live`).then(() => true, () => false));
      const owner = { url, token: await this.#token(), subscriptions, opened, lost, ended };
      if (turn !== this.#turn) return;
      this.#transport = !WebSocket || this.#blocked === "yes" ? openStreams(owner) : openSocket(owner, WebSocket);
    } catch (error) {
      lost(error.message);
    }
  }

  #opened(transport) {
    clearTimeout(this.#timer);
    this.#openedAt = Date.now();
    this.#subscriptions.forEach((subscription) => this.#transport.subscribe(subscription));
    this.#say("open", { transport });
  }

  #lost(reason, wait = 0, answers = false) {
    const steady = this.state === "open" && Date.now() - this.#openedAt > STEADY;
    this.#blocked = this.state === "open" ? "no" : answers ? "yes" : "maybe";
    this.#failures = steady ? 1 : this.#failures + 1;
    this.#leave();
    const delay = Math.max(wait, this.#blocked === "yes" ? 0 : jitter(this.#failures)); // event streams: at once
    this.#notBefore = Date.now() + wait;
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#say("waiting", { delay, reason });
  }

  #ended(subscription, error) {
    if (this.#subscriptions.get(subscription.channel) !== subscription) return;
    this.#subscriptions.delete(subscription.channel);
    subscription.onError?.(error);
    if (this.#subscriptions.size === 0 && this.state !== "closed") this.close();
  }
}

/** One WebSocket that speaks abide.v1, for all channels. */
function openSocket({ url, token, subscriptions, opened, lost, ended }, WebSocket) {
  const protocols = token && HEADER_TOKEN.test(token) ? ["abide.v1", `bearer.${token}`] : ["abide.v1"];
  const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws?heartbeat=true`, protocols);
  const send = (frame) => socket.send(JSON.stringify(frame));
  const watch = watching(lost);
  const take = ({ type, id, ...members }) => {
    const { channel, code, message, status, seconds } = members;
    watch.hear(seconds);
    const subscription = subscriptions.get(channel);
    if (!subscription) return;
    // Until it is live, frames are of an earlier subscription to the same channel.
    if (type === "subscribed" && id === subscription.id) begin(subscription, members);
    else if (type === "message" && subscription.live) moved(subscription, members.position).onMessage?.(members);
    else if (type === "gap" && subscription.live) skip(subscription, members);
    else if (type === "unsubscribed" && subscription.live) ended(subscription, closedWith(code, `${channel} ended`));
    else if (type === "error" && id === subscription.id && passes({ code, status })) lost(message);
    else if (type === "error" && id === subscription.id) ended(subscription, new AbideError(code, message, status));
  };
  socket.onopen = () => opened("websocket");
  socket.onclose = ({ code, reason }) => {
    if (!PASSING.includes(code)) [...subscriptions.values()].forEach((each) => ended(each, closedWith(code, reason)));
    lost(reason || `closed with ${code}`);
  };
  socket.onerror = () => socket.readyState === 1 || lost("the WebSocket failed"); // Node may not close it
  socket.onmessage = ({ data: text }) => {
    const [start, channel, position, time] = MESSAGE.exec(text) ?? [];
    const raw = start && text.slice(start.length, -1); // which may not be JSON
    take(start ? { type: "message", channel, position, time: Number(time), data: parse(raw), raw } : parse(text));
  };
  const subscribe = ({ id, channel, position, since, last }) => {
    send({ type: "subscribe", id, channel, since: position ?? since, last });
    const waits = () => subscriptions.get(channel)?.id === id && !subscriptions.get(channel).live;
    setTimeout(() => waits() && lost(`no answer for ${channel}`), PATIENCE).unref?.(); // it does not keep Node running
  };
  const unsubscribe = ({ channel }) => send({ type: "unsubscribe", channel });
  const close = () => { watch.stop(); socket.onmessage = null; socket.close(); };
  return { subscribe, unsubscribe, look: watch.look, close };
}

/** One event stream per channel, by fetch: Node has no EventSource, which would need the token in the URL. */
function openStreams({ url, token, subscriptions, opened, lost, ended }) {
  const streams = new Map(); // by subscription: what watches each, and what ends it
  ask(`${url}/health/live`).then(() => opened("sse"), ({ message, wait }) => lost(message, wait));
  const take = (subscription, watch, { event, id: position, data: raw }) => {
    const { channel, since, live } = subscription;
    const data = parse(raw);
    const resumed = event !== "gap" && position === (subscription.position ?? since);
    if (position && !live) begin(subscription, { position, resumed });
    if (event === "heartbeat") watch.hear(data.seconds);
    else if (event === "gap") skip(subscription, data);
    else if (event !== "closed") raw && moved(subscription, position).onMessage?.({ channel, position, data, raw });
    else if (PASSING.includes(data.code)) lost(data.message);
    else ended(subscription, closedWith(data.code, data.message));
  };
  const subscribe = async (subscription) => {
    const { channel, position, since, last = 0 } = subscription;
    const query = new URLSearchParams({ ...(position || since ? { since: position ?? since } : { last }), heartbeat: true });
    const headers = { accept: "text/event-stream", ...bearer(token) };
    const stream = new AbortController();
    const watch = watching(lost);
    const end = () => { streams.delete(subscription); watch.stop(); stream.abort(); };
    const over = () => stream.signal.aborted || subscriptions.get(channel) !== subscription;
    streams.set(subscription, { look: watch.look, end });
    try {
      const { body } = await request(`${url}/${encodeURIComponent(channel)}?${query}`, { headers, signal: stream.signal });
      // In a microtask, so that an error of a handler does not end the stream.
      for await (const event of events(body, watch)) queueMicrotask(() => over() || take(subscription, watch, event));
      if (!over()) lost("the event stream ended");
    } catch (error) {
      if (!over()) passes(error) ? lost(error.message, error.wait) : ended(subscription, error);
    }
    end();
  };
  const all = (does) => () => streams.forEach((stream) => stream[does]());
  return { subscribe, unsubscribe: (left) => streams.get(left)?.end(), look: all("look"), close: all("end") };
}

/** Gives up a silent connection: at first after the time for any answer, then after two missing heartbeats, each of which
 * says when the next one comes. An old server has none. */
function watching(lost) {
  let [limit, first, heard, timer] = [PATIENCE, Infinity, Date.now()];
  const look = () => {
    clearTimeout(timer);
    heard = Math.min(heard, Date.now()); // the clock may have been set back
    const left = heard + limit - Date.now();
    if (left <= 0) lost(`nothing came for ${limit / 1000} s`);
    else if (left < Infinity) timer = setTimeout(look, left);
  };
  const hear = (seconds = first) => {
    [heard, first] = [Date.now(), 0];
    if (seconds) limit = 2 * seconds * 1000;
    if (seconds) look();
  };
  look();
  return { look, hear, stop: () => clearTimeout(timer) };
}

function begin(subscription, { position, resumed }) {
  // If a gap follows, keep the old position until it arrives: the connection may break in between.
  if (resumed || !(subscription.position ?? subscription.since)?.includes(":")) subscription.position = position;
  subscription.live = true;
  subscription.onSubscribed?.(position, resumed);
}

function skip(subscription, { channel, after, next, reason }) {
  const [epoch, offset] = next.split(":");
  moved(subscription, `${epoch}:${offset - 1}`).onGap?.({ channel, after, next, reason });
}

const moved = (subscription, position) => Object.assign(subscription, { position });
/** Full jitter, up to a bound that doubles, so that thousands do not come back at the same time. */
const jitter = (failures) => Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1));
const bearer = (token) => (token ? { authorization: `Bearer ${token}` } : {});
const closedWith = (code, text) => new AbideError(CLOSED[code] ?? "refused", text || `closed with ${code}`, code);
const unreachable = ({ message }) => Promise.reject(new AbideError("unreachable", message));
/** Whether a retry may help; without a status the server was not reached. */
const passes = ({ code, status = 503 }) => code !== "too_many" && (PASSING.includes(status) || (status >= 500 && status < 600));
/** The milliseconds of a Retry-After, which is in seconds or a date. */
const waitOf = (after) => Math.min(Math.max((after > 0 ? after * 1000 : Date.parse(after) - Date.now()) || 0, 0), LONGEST_WAIT);
/** A unique key; randomUUID is missing on pages without TLS. */
const randomKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-");
const parse = (text) => { try { return JSON.parse(text); } catch { return undefined; } };
const limited = (options) => ({ ...options, signal: AbortSignal.timeout(PATIENCE) });
const ask = async (url, options) => (await request(url, limited(options))).json().catch(unreachable);

async function request(url, options) {
  const response = await fetch(url, options).catch(unreachable);
  if (response.ok) return response;
  const { code = "refused", detail = response.statusText } = await response.json().catch(() => ({}));
  throw new AbideError(code, detail, response.status, waitOf(response.headers.get("retry-after")));
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
