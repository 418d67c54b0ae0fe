/** What `/client.js` of a server exports, and the package `abide-client`. */

/** `waiting` is the pause before the next attempt to connect. */
export type State = "connecting" | "open" | "waiting" | "closed";

export interface StateDetail {
  /** With `open`: what the messages come by. */
  transport?: "websocket" | "sse";
  /** With `waiting`: milliseconds until the next attempt. */
  delay?: number;
  /** With `waiting`: why the connection was lost. */
  reason?: string;
}

export type StateHandler = (state: State, detail: StateDetail) => void;

/** The position of everything where the server keeps no messages. To resume from it is to be told of a gap. */
export const NOWHERE: "live:0";

export interface Message<Data = any> {
  channel: string;
  /** Store it, and pass it as `since`, to continue after this message. */
  position: string;
  /** When it was published, in milliseconds since the Unix epoch. Event streams do not say. */
  time?: number;
  /** The decoded JSON; undefined if the text in the log is not JSON. */
  data: Data;
  /** The data's text, as it was published. */
  raw: string;
}

/** Messages that cannot be delivered: all between the positions `after` and `next`. */
export interface Gap {
  channel: string;
  after: string;
  next: string;
  reason: "expired" | "epoch" | "ahead" | "dropped";
}

/** Why the server refused, or could not be reached. */
export class AbideError extends Error {
  constructor(code: string, message: string, status?: number, options?: { wait?: number; pointer?: string });
  /** One of the codes in docs/codes.md. */
  readonly code: string;
  /** The HTTP status or the close code; undefined if the server was not reached. */
  readonly status: number | undefined;
  /** Milliseconds that the server asks to wait before another attempt; 0 if it does not. */
  readonly wait: number;
  /** The JSON pointer to what does not fit the channel's schema. */
  readonly pointer: string | undefined;
}

/** What the client uses of a WebSocket: that of browsers, of Node 22, or of the package `ws`. */
export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  send(data: string): void;
  close(): void;
}

export interface ConnectOptions {
  /** A token or a key, or a function that returns a new token whenever one is needed. */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** The WebSocket to use; null for event streams (SSE). By default `globalThis.WebSocket`, where there is one. */
  WebSocket?: (new (url: string, protocols: string[]) => WebSocketLike) | null;
  onState?: StateHandler;
}

export interface SubscribeOptions<Data = any> {
  /** Begin after this position, or with `"earliest"`, the oldest message that is held. */
  since?: string;
  /** Begin with the newest so many messages; `since` wins. */
  last?: number;
  onMessage?: (message: Message<Data>) => void;
  /** Messages are missing. The subscription continues after them. */
  onGap?: (gap: Gap) => void;
  /** The subscription is over. Without this handler, `console.error` says so. */
  onError?: (error: AbideError) => void;
  /** The server has answered: messages after `position` follow. */
  onSubscribed?: (position: string, resumed: boolean) => void;
  /** What {@link ConnectOptions.onState} is told, for as long as the subscription lasts. */
  onState?: StateHandler;
}

export interface PublishOptions {
  /** The idempotency key; a repeat with the same key is stored once. */
  key?: string;
  /** JSON text, to be published unchanged instead of the data. */
  raw?: string;
}

export interface Client {
  readonly state: State;
  /** Subscribe until the returned function is called. Throws if the client is subscribed to the channel already. */
  subscribe<Data = any>(channel: string, options?: SubscribeOptions<Data>): () => void;
  /** Publish a message and return its position when it is stored. Rejects with an {@link AbideError}. */
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<string>;
  /** End all subscriptions, and the connection. */
  close(): void;
}

/** Make a client of the server at this address, `http://host:port`. It connects with the first subscription. Throws TypeError if it is none. */
export function connect(address: string, options?: ConnectOptions): Client;
