"use client";
/** A channel as a React hook. */
import { useCallback, useSyncExternalStore } from "react";

const FRAME = 16; // milliseconds: what arrives within one frame is shown at once
const NOTHING = Object.freeze({ messages: Object.freeze([]), status: "connecting", error: null, gap: null });

/** The feeds of each client, by channel. */
const feeds = new WeakMap();

/** Subscribe while the component is mounted; components with the same client and channel share one subscription. */
export function useChannel(client, channel, options = {}) {
  const feed = feedOf(client, channel);
  // React must get the same function each time, so these are the options of the first render with this channel.
  const follow = useCallback((changed) => feed.follow(changed, options), [feed]);
  return useSyncExternalStore(follow, feed.shown, feed.nothing);
}

function feedOf(client, channel) {
  if (!feeds.has(client)) feeds.set(client, new Map());
  const channels = feeds.get(client);
  if (!channels.has(channel)) channels.set(channel, makeFeed(client, channel));
  return channels.get(channel);
}

/** One subscription for all components that follow it, and what they show. */
function makeFeed(client, channel) {
  const followers = new Set();
  let [shown, arrived, keep] = [NOTHING, [], 0];
  let timer, unsubscribe;

  const show = (change) => {
    shown = { ...shown, ...change };
    for (const changed of [...followers]) changed();
  };
  const flush = (change) => {
    clearTimeout(timer);
    timer = undefined;
    const messages = arrived.length ? [...shown.messages, ...arrived].slice(-keep || Infinity) : shown.messages;
    arrived = [];
    show({ ...change, messages });
  };
  const begin = ({ since, last, keep: most = 1000 }) => {
    keep = most;
    unsubscribe = client.subscribe(channel, {
      since,
      last,
      onMessage: (message) => {
        arrived.push(message);
        timer ??= setTimeout(flush, FRAME);
      },
      onSubscribed: () => show({ status: "open" }),
      onState: (status) => status === "open" || flush({ status }),
      onGap: (gap) => flush({ gap }),
      onError: (error) => flush({ status: "closed", error }),
    });
    if (client.state === "waiting") show({ status: "waiting" });
  };
  const end = () => {
    if (followers.size || !unsubscribe) return;
    clearTimeout(timer);
    unsubscribe();
    [shown, arrived, timer, unsubscribe] = [NOTHING, []];
  };
  const follow = (changed, options) => {
    if (!unsubscribe) begin(options);
    followers.add(changed);
    return () => {
      followers.delete(changed);
      // Later, because another component may take over, or the same one again, as in StrictMode.
      setTimeout(end);
    };
  };
  return { follow, shown: () => shown, nothing: () => NOTHING };
}
