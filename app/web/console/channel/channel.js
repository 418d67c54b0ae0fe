/** The chosen channel: its policy, its messages live or at a position of the past, and what uses it. */

import { NOWHERE } from "../client.js";
import { arrivals } from "./arrivals.js";
import { byId, element, say } from "../parts/dom.js";
import { bytes, count, duration } from "../parts/format.js";
import { after, around, before } from "./history.js";
import { messages } from "./messages.js";
import { publishing } from "./publish.js";
import { base } from "../parts/server.js";
import { snippets } from "./snippets.js";
import { tabs } from "./tabs.js";

const BACKLOG = 50; // older messages that are shown

/** The part of the page's address after its `#`. */
export const linkOf = (name, position) => `#${encodeURIComponent(name)}${position ? `/${position}` : ""}`;

/** Make the view. `client` returns the client in use, `policy` what is declared of a name; `onRefused` gets refusals. */
export function channel({ client, policy, needsKey, onRefused }) {
  let [name, unsubscribe, turn, drawnFor, beginning] = [null, () => {}, 0, ""]; // beginning: the oldest message kept, if known
  const rows = messages((position) => `${base}/${linkOf(name, position)}`);
  const charts = arrivals();
  const panels = tabs(byId("tabs"));
  const box = publishing({ send: (raw) => client().publish(name, undefined, { raw }), onRefused });

  /** Show a channel live, or around a position. */
  function open(chosen, position) {
    unsubscribe();
    turn++;
    [name, unsubscribe, beginning] = [chosen, () => {}, null];
    byId("channel").hidden = false;
    byId("start").hidden = true;
    say(byId("channel-title"), name);
    rows.clear();
    box.clear();
    charts.begin();
    panels.first();
    showPolicy();
    byId("older").hidden = true;
    say(byId("older-note"), "");
    byId("past").hidden = !position;
    if (position) past(position);
    else live();
  }

  function live() {
    unsubscribe = client().subscribe(name, {
      last: BACKLOG,
      onMessage: ({ position, time, raw }) => {
        charts.count(time);
        rows.add({ position, time, raw });
        const oldest = rows.oldest();
        byId("older").hidden = position === NOWHERE || oldest === beginning || oldest.endsWith(":1"); // NOWHERE: nothing is kept
      },
      onGap: ({ reason, after: from, next }) => rows.add({ gap: `gap: ${reason}${next === NOWHERE ? "" : `, after ${from}, next ${next}`}` }),
      onError: (error) => {
        rows.add({ gap: error.message });
        onRefused(error);
      },
    });
  }

  async function past(position) {
    say(byId("past-title"), `Messages around ${position}`);
    await reading(() => around(name, position), ({ items, hasOlder, hasNewer }) => {
      rows.addOlder(items.toReversed());
      byId("older").hidden = !hasOlder;
      byId("newer").hidden = !hasNewer;
      if (!rows.reveal(position)) say(byId("past-title"), `The history has no message at ${position} any more`);
    });
  }

  byId("older").onclick = () => {
    const oldest = rows.oldest();
    if (!oldest) return;
    reading(() => before(name, oldest), ({ items, hasOlder }) => {
      rows.addOlder(items.toReversed());
      byId("older").hidden = !hasOlder;
      if (hasOlder) return;
      beginning = rows.oldest();
      say(byId("older-note"), "This is the oldest message that is kept.");
    });
  };
  byId("newer").onclick = () =>
    reading(() => after(name, rows.newest()), ({ items, hasNewer }) => {
      for (const item of items) rows.add(item);
      byId("newer").hidden = !hasNewer;
    });
  byId("live").onclick = () => { location.hash = linkOf(name); };

  /** Read something of the history, and show it if the same is still shown. */
  async function reading(read, show) {
    const mine = turn;
    try {
      const found = await read();
      if (mine === turn) show(found);
    } catch (error) {
      if (mine !== turn) return;
      say(byId("older-note"), error.message);
      onRefused(error);
    }
  }

  /** Show what is declared, which may have changed. */
  function showPolicy() {
    if (name === null) return;
    const declared = policy(name);
    const drawing = JSON.stringify([name, declared && { ...declared, subscribers: 0, head: 0 }, needsKey(declared)]);
    if (drawing === drawnFor) return;
    drawnFor = drawing;
    byId("policy").replaceChildren(...(declared ? facts(declared) : []));
    byId("snippets").replaceChildren(...snippets(name, needsKey(declared)));
  }

  function facts({ name: family, publish, subscribe, client_publish: byClients, history, max_message_size: most, rate_limit: rate, schema }) {
    const kept = history.size ? `${count(history.size)} messages, ${duration(history.ttl)}` : "nothing";
    const all = { publish: byClients ? `${publish}, also by sockets` : publish, subscribe, history: kept, "at most": bytes(most), rate, schema };
    if (family !== name) all.of = family;
    return Object.entries(all).filter(([, value]) => value).map(([key, value]) => element("li", {}, element("span", { textContent: key }), ` ${value}`));
  }

  return { open, showPolicy, again: () => name && open(name), isOpen: () => name !== null, name: () => name };
}
