/**
 * Abide's client: any number of channels over one WebSocket, resumed by position.
 *
 *     const abide = connect("http://localhost:8000");
 *     const unsubscribe = abide.subscribe("lebowski", { onMessage: ({ data }) => console.log(data) });
 *     await abide.publish("lebowski", { hello: "world" });
 *
 * For browsers, and for Node 22 and later. Server-Sent Events where WebSockets do not open though the server answers.
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 * @typedef {{ channel: string, position: string, time?: number, data: any }} Message  `time` is missing over SSE
 * @typedef {{ channel: string, after: string, next: string, reason: string }} Gap
 * @typedef {object} ConnectOptions
 * @property {string | (() => string | Promise<string>)} [token]  a function is called for each connection and publish
 * @property {(state: State, detail: { transport?: string, delay?: number, reason?: string }) => void} [onState]
 * @property {typeof globalThis.WebSocket} [WebSocket]
 * @property {typeof globalThis.EventSource} [EventSource]
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
    this.#options = { WebSocket: globalThis.WebSocket, EventSource: globalThis.EventSource, ...options };
    if (!this.#options.WebSocket && !this.#options.EventSource) throw new Error("pass a WebSocket: there is none here");
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
        return (await ask(`${this.#url}/push/${channel}`, { method: "POST", headers, body })).position;
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
    const { WebSocket, EventSource } = this.#options;
    try {
      const streams = !WebSocket || (EventSource && this.#blocked === "yes");
      const check = async () => (await ask(`${this.#url}/health/live`)).live;
      const answers = this.#blocked === "maybe" && (await check().catch(() => false));
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
      this.#transport = streams ? new Streams(owner, EventSource) : new Sockets(owner, WebSocket);
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
    const delay = jitter(this.#failures);
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

/** One EventSource for each channel; interrupted, it resumes by itself. */
class Streams {
  streams = new Map();

  constructor(owner, EventSource) {
    Object.assign(this, { owner, EventSource });
    queueMicrotask(() => owner.opened("sse"));
  }

  async subscribe(subscription) {
    const { url, token, lost, ended } = this.owner;
    const { channel } = subscription;
    this.streams.set(subscription, null);
    const position = await this.locate(subscription).catch((error) => error);
    if (!this.streams.has(subscription)) return;
    if (position instanceof Error) return passes(position) ? lost(position.message) : ended(subscription, position);
    const query = new URLSearchParams(token ? { since: position, token } : { since: position });
    const stream = new this.EventSource(`${url}/${channel}?${query}`);
    this.streams.set(subscription, stream);
    const resumed = position === (subscription.position ?? subscription.since);
    stream.onopen = () => subscription.live || begin(subscription, { position, resumed });
    stream.onerror = () => stream.readyState === 2 && lost("the event stream failed");
    stream.onmessage = ({ lastEventId: position, data }) =>
      deliver(subscription, { channel, position, data: JSON.parse(data) });
    stream.addEventListener("gap", (event) => skip(subscription, JSON.parse(event.data)));
    stream.addEventListener("closed", (event) => {
      const { code, message } = JSON.parse(event.data);
      this.unsubscribe(subscription);
      return code < 4000 ? lost(message) : ended(subscription, goneWith(code, message));
    });
  }

  /** Return where to begin as a position, so that no drop makes a hole; throw the reason of a refusal. */
  async locate({ channel, position, since, last: newest = 0 }) {
    const { url, token } = this.owner;
    const { epoch, first, last } = await ask(`${url}/${channel}/history?limit=1`, { headers: bearer(token) });
    if (position || (since && since !== "earliest")) return position ?? since;
    const before = Math.max(0, first - 1);
    return `${epoch}:${since ? before : Math.max(before, last - newest)}`;
  }

  unsubscribe(subscription) {
    this.streams.get(subscription)?.close();
    this.streams.delete(subscription);
  }

  close() {
    for (const stream of this.streams.values()) stream?.close();
    this.streams.clear();
  }
}

function begin(subscription, { position, resumed }) {
  Object.assign(subscription, { position, live: true });
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

async function ask(url, request) {
  const unreachable = (error) => Promise.reject(new AbideError("unreachable", error.message));
  const response = await fetch(url, request).catch(unreachable);
  if (response.ok) return response.json();
  const { code = "refused", detail = response.statusText } = await response.json().catch(() => ({}));
  throw new AbideError(code, detail, response.status);
}

/** A key that nobody else has; randomUUID is missing on pages without TLS. */
const randomKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-");
