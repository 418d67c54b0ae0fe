/** A channel as a React hook. */
import type { AbideError, Client, Gap, Message, State } from "./client.js";

export interface ChannelOptions {
  /** Begin after this position, or with `"earliest"`. */
  since?: string;
  /** Begin with the newest so many messages; `since` wins. */
  last?: number;
  /** How many of the newest messages `messages` holds; 1000 by default. */
  keep?: number;
}

export interface ChannelFeed<Data = any> {
  /** In the order of the channel. It is a new array whenever messages have arrived. */
  readonly messages: readonly Message<Data>[];
  /** `open` from the server's answer on; `waiting` after the connection was lost; `closed` when `error` says why. */
  readonly status: State;
  /** Why the subscription is over. */
  readonly error: AbideError | null;
  /** The latest gap. The messages after it are in `messages`. */
  readonly gap: Gap | null;
}

/**
 * Subscribe to a channel while the component is mounted. After an interruption it resumes by position.
 *
 * Make the client outside of components, with `connect`. Components with the same client and channel share one
 * subscription, which has the options of the first of them.
 */
export function useChannel<Data = any>(client: Client, channel: string, options?: ChannelOptions): ChannelFeed<Data>;
