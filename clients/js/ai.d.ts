/** Runs of a language model over Abide, for the AI SDK: each run is a channel of chunks (`UIMessageChunk`). */
import type { ChatTransport, UIMessage, UIMessageChunk } from "ai";
import type { Client } from "./client.js";

type SendRequest<M extends UIMessage> = Parameters<ChatTransport<M>["sendMessages"]>[0];
type ResumeRequest<M extends UIMessage> = Parameters<ChatTransport<M>["reconnectToStream"]>[0];

export interface AbideChatTransportOptions<M extends UIMessage = UIMessage> {
  client: Client;
  /** Have your application start a run for these messages, and return the run's id. */
  start: (request: SendRequest<M>) => string | Promise<string>;
  /** Return the id of the run that `useChat` shows after a reload (`resume: true`); null if there is none. */
  resume?: (request: ResumeRequest<M>) => string | null | undefined | Promise<string | null | undefined>;
  /** The channel of a run; `run.{id}` by default. */
  channel?: (run: string) => string;
}

/**
 * A transport for `useChat`. A run's channel holds its chunks and nothing else. A message is a chunk or an array of
 * chunks, and the last chunk is `finish`, `abort` or `error`.
 */
export class AbideChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  constructor(options: AbideChatTransportOptions<M>);
  sendMessages(request: SendRequest<M>): Promise<ReadableStream<UIMessageChunk>>;
  reconnectToStream(request: ResumeRequest<M>): Promise<ReadableStream<UIMessageChunk> | null>;
}

export interface PublishRunOptions {
  /** The beginning of the messages' idempotency keys; by default a random one. */
  key?: string;
}

/**
 * Publish a run's chunks as they are written, such as `streamText(…).toUIMessageStream()`. Those of 40 ms become one
 * message, which is an array. The run ends with a chunk `finish` if the chunks have no end of their own, and with `error`
 * if they throw. Rejects with an `AbideError` if the server refuses a message.
 */
export function publishRun(
  client: Client,
  channel: string,
  chunks: AsyncIterable<UIMessageChunk>,
  options?: PublishRunOptions,
): Promise<void>;
export {};
