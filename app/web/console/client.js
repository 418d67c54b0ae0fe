/**
 * Abide's client: any number of channels over one WebSocket, resumed by position. For browsers, and for Node 20 and
 * later. Server-Sent Events where there is no WebSocket, or none opens.
 *
 *     const abide = connect("http://localhost:8000");
 *     const unsubscribe = abide.subscribe("lebowski", { onMessage: ({ data }) => console.log(data) });
 *     await abide.publish("lebowski", { hello: "world" });
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 * @typedef {{ channel: string, position: string, time?: number, data: any }} Message  `time` is missing over SSE
 * @typedef {{ channel: string, after: string, next: string, reason: string }} Gap
 * @typedef {object} ConnectOptions
 * @property {string | (() => string | Promise<string>)} [token]  a function is called for each connection and publish
 * @property {(state: State, detail: { transport?: string, delay?: number, reason?: string }) => void} [onState]
 * @property {typeof globalThis.WebSocket | null} [WebSocket]  null for Server-Sent Events alone
 * @typedef {object} SubscribeOptions
 * @property {string} [since]  a position, or "earliest"; without, from now on
 * @property {number} [last]  the newest so many messages first
 * @property {(message: Message) => void} [onMessage]
 * @property {(gap: Gap) => void} [onGap]  what could not be delivered; messages go on after it
 * @property {(error: AbideError) => void} [onError]  the subscription is over
 * @property {(position: string, resumed: boolean) => void} [onSubscribed]
 */

const FIRST_DELAY = 500; // milliseconds, doubled with every failure
const LONGEST_DELAY = 30_000;
const STEADY = 5000; // a connection that lasted so long begins the delays anew
const PUBLISH_ATTEMPTS = 6;
const HEADER_TOKEN = /^[\w!#$%&'*+.^`|~-]+$/; // what RFC 9110 lets stand in Sec-WebSocket-Protocol

/** Why the server refused: `code` is that of docs/codes.md, `status` an HTTP status or a close code. */
export class AbideError extends Error {
  /** @type {string} */ code;
  /** @type {number | undefined} */ status;
  constructor(code, message, status) {
    super(message);
    Object.assign(this, { name: "AbideError", code, status });
  }
}

/** Make a client. It connects with the first subscription. @param {string} url @param {ConnectOptions} [options] */
export function connect(url, options = {}) {
  return new Client(url.replace(/^ws/, "http").replace(/\/+$/, ""), options);
}

class Client {
  #url;
  #options;
  #token;
  #subscriptions = new Map(); // by channel
  #transport = null;
  #timer;
  #turn = 0; // of connecting; what belongs to an earlier one is ignored
  #failures = 0;
  #blocked = "no"; // do WebSockets not open here? "maybe", if one did not; "yes", if the server answered before
  #openedAt = 0;
  #ids = 0;
  /** @type {State} */ state = "closed";

  constructor(url, options) {
    this.#url = url;
    this.#options = { WebSocket: globalThis.WebSocket, ...options };
    this.#token = async () => (typeof options.token === "function" ? options.token() : options.token);
    globalThis.addEventListener?.("online", () => this.state === "waiting" && this.#open());
  }

  /**
   * Subscribe until the returned function is called. Interrupted, it goes on after the last message seen, or `onGap`.
   * @param {string} channel @param {SubscribeOptions} [options] @returns {() => void}
   */
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

  /**
   * Publish, and return the message's position; tried again with the same idempotency key, it is stored once.
   * @param {string} channel @param {any} data @param {{ key?: string }} [options] @returns {Promise<string>}
   */
  async publish(channel, data, { key = randomKey() } = {}) {
    const body = JSON.stringify(data);
    if (body === undefined) throw new TypeError("what is published must be JSON");
    for (let attempt = 1; ; attempt++) {
      const headers = { "content-type": "application/json", "idempotency-key": key, ...bearer(await this.#token()) };
      try {
        return (await ask(`${this.#url}/push/${encodeURIComponent(channel)}`, { method: "POST", headers, body })).position;
      } catch (error) {
        if (!passes(error) || attempt === PUBLISH_ATTEMPTS) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, jitter(attempt)));
    }
  }

  /** End all subscriptions, and the connection. */
  close() {
    this.#subscriptions.clear();
    this.#leave();
    this.#say("closed");
  }

  #say(state, detail = {}) {
    this.state = state;
    this.#options.onState?.(state, detail);
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
    const turn = this.#turn;
    const { WebSocket } = this.#options;
    try {
      const check = () => ask(`${this.#url}/health/live`).then(() => true, () => false);
      const answers = this.#blocked === "maybe" && (await check());
      const token = await this.#token();
      if (turn !== this.#turn) return;
      const owner = {
        url: this.#url,
        token,
        subscriptions: this.#subscriptions,
        opened: (transport) => turn === this.#turn && this.#opened(transport),
        lost: (reason) => turn === this.#turn && this.#lost(reason, answers),
        ended: (subscription, error) => this.#ended(subscription, error),
      };
      const streams = !WebSocket || this.#blocked === "yes";
      this.#transport = streams ? new Streams(owner) : new Sockets(owner, WebSocket);
    } catch (error) {
      if (turn === this.#turn) this.#lost(error.message);
    }
  }

  #opened(transport) {
    this.#openedAt = Date.now();
    this.#say("open", { transport });
    for (const subscription of this.#subscriptions.values()) this.#transport?.subscribe(subscription);
  }

  #lost(reason, answers = false) {
    const steady = this.state === "open" && Date.now() - this.#openedAt > STEADY;
    this.#blocked = this.state === "open" ? "no" : answers ? "yes" : "maybe";
    this.#failures = steady ? 1 : this.#failures + 1;
    this.#leave();
    const delay = this.#blocked === "yes" ? 0 : jitter(this.#failures); // event streams are asked for at once
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
class Sockets {
  constructor(owner, WebSocket) {
    const { url, token, opened, lost } = owner;
    const protocols = token && HEADER_TOKEN.test(token) ? ["abide.v1", `bearer.${token}`] : ["abide.v1"];
    this.owner = owner;
    this.socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws`, protocols);
    this.socket.onopen = () => opened("websocket");
    this.socket.onmessage = (event) => this.take(JSON.parse(event.data));
    this.socket.onclose = (event) => lost(event.reason || `closed with ${event.code}`);
    this.socket.onerror = () => this.socket.readyState === 1 || lost("the WebSocket failed"); // Node may not close it
  }

  subscribe({ id, channel, position, since, last }) {
    this.socket.send(JSON.stringify({ type: "subscribe", id, channel, since: position ?? since, last }));
  }

  unsubscribe({ channel }) {
    this.socket.send(JSON.stringify({ type: "unsubscribe", channel }));
  }

  close() {
    this.socket.onmessage = null;
    this.socket.close();
  }

  take({ type, id, ...members }) {
    const { lost, ended, subscriptions } = this.owner;
    const { channel, code, message, status } = members;
    const subscription = subscriptions.get(channel);
    if (!subscription) return;
    // Until it is live, what comes is of an earlier subscription to the same channel.
    if (type === "subscribed" && id === subscription.id) begin(subscription, members);
    else if (type === "message" && subscription.live) deliver(subscription, members);
    else if (type === "gap" && subscription.live) skip(subscription, members);
    else if (type === "unsubscribed" && subscription.live) ended(subscription, goneWith(code, `${channel} ended`));
    else if (type === "error" && id === subscription.id && passes({ status })) lost(message);
    else if (type === "error" && id === subscription.id) ended(subscription, new AbideError(code, message, status));
  }
}

/** One event stream for each channel, by fetch: Node has no EventSource, which would put the token into the URL. */
class Streams {
  streams = new Map(); // by subscription: what aborts each
  unsubscribe = (subscription) => this.streams.get(subscription)?.abort();
  close = () => this.streams.forEach((stream) => stream.abort());

  constructor(owner) {
    this.owner = owner;
    ask(`${owner.url}/health/live`).then(() => owner.opened("sse"), ({ message }) => owner.lost(message));
  }

  async subscribe(subscription) {
    const { url, token, subscriptions, lost, ended } = this.owner;
    const { channel, position, since, last = 0 } = subscription;
    const query = new URLSearchParams(position || since ? { since: position ?? since } : { last });
    const stream = new AbortController();
    const over = () => stream.signal.aborted || subscriptions.get(channel) !== subscription;
    this.streams.set(subscription, stream);
    try {
      const headers = { accept: "text/event-stream", ...bearer(token) };
      const { body } = await request(`${url}/${encodeURIComponent(channel)}?${query}`, { headers, signal: stream.signal });
      // In a turn of its own, what a handler throws is its own matter.
      for await (const event of events(body)) queueMicrotask(() => over() || this.take(subscription, event));
      if (!over()) lost("the event stream ended");
    } catch (error) {
      if (!over()) passes(error) ? lost(error.message) : ended(subscription, error);
    }
  }

  take(subscription, { event, id: position, data }) {
    const { channel, since, live } = subscription;
    const members = data && JSON.parse(data);
    const resumed = event !== "gap" && position === (subscription.position ?? since);
    if (position && !live) begin(subscription, { position, resumed });
    if (event === "gap") skip(subscription, members);
    else if (event !== "closed") data && deliver(subscription, { channel, position, data: members });
    else if (members.code < 4000) this.owner.lost(members.message);
    else this.owner.ended(subscription, goneWith(members.code, members.message));
  }
}

function begin(subscription, { position, resumed }) {
  // Where a gap comes next, the old position holds until it is told: the connection may break in between.
  if (resumed || !(subscription.position ?? subscription.since)?.includes(":")) subscription.position = position;
  subscription.live = true;
  subscription.onSubscribed?.(position, resumed);
}

function deliver(subscription, message) {
  subscription.position = message.position;
  subscription.onMessage?.(message);
}

function skip(subscription, { channel, after, next, reason }) {
  const [epoch, offset] = next.split(":");
  subscription.position = `${epoch}:${Number(offset) - 1}`;
  subscription.onGap?.({ channel, after, next, reason });
}

/** Full jitter: anything up to a bound that doubles, so that thousands do not come back at once. */
const jitter = (failures) => Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1));
const bearer = (token) => (token ? { authorization: `Bearer ${token}` } : {});
const goneWith = (code, text) => new AbideError(code === 4404 ? "channel_removed" : "forbidden", text, code);

/** Whether it is worth trying again; without a status the server was not reached. */
const passes = ({ status = 503 }) => status === 429 || status >= 500;
const ask = async (url, options) => (await request(url, options)).json();

async function request(url, options) {
  const unreachable = (error) => Promise.reject(new AbideError("unreachable", error.message));
  const response = await fetch(url, options).catch(unreachable);
  if (response.ok) return response;
  const { code = "refused", detail = response.statusText } = await response.json().catch(() => ({}));
  throw new AbideError(code, detail, response.status);
}

/** The events of a stream, as this server writes them: one line for each field. One that is cut off is none. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", read; !(read = await reader.read()).done; ) {
    const texts = (rest + read.value).split("\n\n");
    rest = texts.pop();
    for (const text of texts) yield Object.fromEntries(text.split("\n").map((line) => line.split(/: ?(.*)/s)));
  }
}

/** A key that nobody else has; randomUUID is missing on pages without TLS. */
const randomKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-");
