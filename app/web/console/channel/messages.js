/** The table of messages, newest first: each opens to its whole JSON. It can be filtered, and paused. */

import { NOWHERE } from "../client.js";
import { copyButton } from "../parts/copy.js";
import { byId, element, say } from "../parts/dom.js";
import { bytes, clock, count, millis } from "../parts/format.js";
import { inLine, pretty } from "../parts/json.js";

const MOST = 1000; // rows
const MOST_TEXT = 50_000_000; // characters of all rows
const DRAW_EVERY = 100; // milliseconds; one layout for each message would be too slow
const LINE = 400; // characters of a message in its row

const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);

/** Make the table. `linkTo` returns the address of a position. */
export function messages(linkTo) {
  const body = byId("rows");
  let [waiting, isPaused, drawing, wanted, held] = [[], false, null, [], 0]; // held: characters of all rows
  const details = new WeakMap(); // by row

  byId("filter").oninput = () => {
    wanted = words(byId("filter").value);
    for (const row of body.children) if (!row.matches(".detail")) hide(row);
    counted();
  };
  byId("pause").onclick = () => pause(!isPaused);

  const fits = (row) => wanted.every((word) => row.text.includes(word));

  function hide(row) {
    row.hidden = !fits(row);
    const detail = details.get(row);
    if (detail) detail.hidden = row.hidden;
  }

  function counted() {
    const rows = [...body.children].filter((row) => !row.matches(".detail"));
    const shown = rows.filter((row) => !row.hidden).length;
    say(byId("counted"), wanted.length ? `${count(shown)} of ${count(rows.length)} messages` : "");
    byId("empty").hidden = rows.length > 0;
    byId("table").hidden = rows.length === 0;
  }

  function pause(on) {
    isPaused = on;
    byId("pause").setAttribute("aria-pressed", String(on));
    label();
    if (!on) draw();
  }

  function label() {
    say(byId("pause"), isPaused ? (waiting.length ? `Resume, ${count(waiting.length)} new` : "Resume") : "Pause");
  }

  /** Add what has come: `{ position, time, raw }`, or `{ gap: text }`. */
  function add(item) {
    waiting.push(item);
    if (waiting.length > MOST) waiting.shift();
    if (isPaused) label();
    else drawing ??= setTimeout(draw, DRAW_EVERY);
  }

  function draw() {
    clearTimeout(drawing);
    drawing = null;
    body.prepend(...waiting.reverse().map(rowOf));
    waiting = [];
    label();
    while (body.children.length > MOST || (held > MOST_TEXT && body.children.length > 1)) {
      held -= body.lastElementChild.text?.length ?? 0;
      body.lastElementChild.remove();
    }
    counted();
  }

  /** Add what is older than all, newest first. */
  function addOlder(items) {
    draw();
    body.append(...items.map(rowOf));
    counted();
  }

  function rowOf(item) {
    const row = item.gap ? gapRow(item) : messageRow(item);
    row.text = (item.gap ?? `${item.position} ${item.raw}`).toLowerCase();
    row.hidden = !fits(row);
    held += row.text.length;
    return row;
  }

  function messageRow({ position, time, raw }) {
    const at = time === undefined ? null : new Date(time);
    const offset = position === NOWHERE ? "–" : position.slice(position.indexOf(":") + 1); // a backend may have no positions
    const button = element("button", { type: "button", className: "open", textContent: offset, "aria-expanded": "false", "aria-label": `Message ${offset}` });
    const when = at ? element("time", { dateTime: at.toISOString(), title: at.toString() }, clock(at), element("span", { className: "millis" }, millis(at))) : "";
    const row = element(
      "tr",
      {},
      element("td", { className: "offset" }, button),
      element("td", { className: "when" }, when),
      element("td", { className: "data" }, inLine(raw, LINE)),
    );
    row.dataset.position = position;
    row.onclick = ({ target }) => {
      if (getSelection()?.isCollapsed === false && target !== button) return; // somebody selects the text
      toggle(row, button, { position, at, raw });
    };
    return row;
  }

  function toggle(row, button, message) {
    const detail = details.get(row);
    button.setAttribute("aria-expanded", String(!detail));
    row.classList.toggle("is-open", !detail);
    if (detail) {
      detail.remove();
      details.delete(row);
    } else {
      const opened = detailOf(message);
      details.set(row, opened);
      row.after(opened);
    }
  }

  function detailOf({ position, at, raw }) {
    const place = position === NOWHERE ? at?.toISOString() : position;
    const pre = element("pre", { tabIndex: 0, role: "region", "aria-label": `Message at ${place}` }, pretty(raw));
    const facts = [place, position === NOWHERE ? "" : at?.toISOString(), bytes(new TextEncoder().encode(raw).length)].filter(Boolean);
    const tools = element(
      "div",
      { className: "detail-tools" },
      element("span", { className: "facts", textContent: facts.join(" · ") }),
      copyButton("Copy JSON", `Copy JSON of ${place}`, () => raw, pre),
      ...(position === NOWHERE ? [] : linksTo(position)),
    );
    return element("tr", { className: "detail" }, element("td", { colSpan: 3 }, tools, pre));
  }

  function linksTo(position) {
    const link = element("code", { textContent: linkTo(position) });
    return [
      copyButton("Copy link", `Copy link to ${position}`, () => linkTo(position), link),
      element("a", { href: linkTo(position), textContent: "Open here" }),
    ];
  }

  const gapRow = ({ gap }) => element("tr", { className: "gap" }, element("td", { colSpan: 3, textContent: gap }));

  /** Forget all rows. */
  function clear() {
    clearTimeout(drawing);
    [waiting, drawing, held] = [[], null, 0];
    body.replaceChildren();
    pause(false);
    counted();
  }

  /** Open the row of a position, and scroll to it; return whether there is one. */
  function reveal(position) {
    draw();
    const row = [...body.children].find((each) => each.dataset.position === position);
    if (!row) return false;
    row.classList.add("is-linked");
    if (!details.has(row)) row.querySelector("button").click();
    row.scrollIntoView({ block: "center" });
    return true;
  }

  /** The position of the first message that is found from a row on, in the direction of `next`. */
  function nearest(row, next) {
    while (row && !row.dataset.position) row = row[next];
    return row?.dataset.position;
  }

  const oldest = () => nearest(body.lastElementChild, "previousElementSibling") ?? waiting.find(({ position }) => position)?.position;
  const newest = () => nearest(body.firstElementChild, "nextElementSibling");
  return { add, addOlder, clear, reveal, oldest, newest };
}
