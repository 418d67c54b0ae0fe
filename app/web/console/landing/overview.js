/** The overview: health, and what all workers of the server do, live. */

import { chart } from "../parts/chart.js";
import { byId, element, say } from "../parts/dom.js";
import { count, latency, number, time } from "../parts/format.js";
import { quantile, Seconds } from "./seconds.js";
import { read } from "../parts/server.js";

const EVERY = 1000; // milliseconds between two looks
const AGAIN = 5; // seconds that are asked for again: a busy worker writes late
const KEPT = 900; // seconds
const [RATE, AGES] = [5, 60]; // seconds that a number is taken from
const BUSIEST = 6;

const seconds = new Seconds();
const rates = chart(byId("rates"), {
  title: "Messages per second",
  lines: [{ name: "in", kind: "first" }, { name: "out", kind: "second" }],
  format: number,
});
const ages = chart(byId("ages"), {
  title: "Publish to delivery",
  lines: [{ name: "p50", kind: "second" }, { name: "p99", kind: "third" }],
  format: time,
  least: 0.004,
});

/** Look again and again. `onLook` is given each look, `onRefused` why there is none, and `onChoose` a busy channel's name. */
export function overview({ onLook, onRefused, onChoose }) {
  let [timer, turn] = [undefined, 0];
  byId("range").addEventListener("change", draw);
  const look = async () => {
    clearTimeout(timer);
    const mine = ++turn;
    try {
      const seen = JSON.parse(await read(`console/overview?since=${Math.max(0, seconds.until - AGAIN)}`));
      if (mine !== turn) return;
      seconds.take(seen, KEPT);
      show(seen, onChoose);
      onLook(seen);
    } catch (error) {
      if (mine !== turn) return;
      const isRefused = error.status === 401 || error.status === 403;
      showHealth("bad", error.code === "unreachable" ? "No answer" : "Not shown", isRefused ? "" : error.message);
      onRefused(error); // which says why, beside the place for another key
      if (isRefused) return; // until there is one
    }
    timer = setTimeout(() => document.hidden || look(), EVERY);
  };
  document.addEventListener("visibilitychange", () => document.hidden || look());
  look();
  return look;
}

function show(look, onChoose) {
  byId("overview").hidden = false;
  const { ready, reasons, backend, config, access } = look.health;
  showHealth(ready ? "good" : "bad", ready ? "Healthy" : "Not ready", reasons.join("; "));
  say(byId("backend"), backend);
  say(byId("workers"), `${count(look.workers)} ${look.workers === 1 ? "worker" : "workers"}`);
  say(byId("version"), look.version);
  showProblems([config.error && `channels.yaml is not in force: ${config.error}`, access].filter(Boolean), look.warnings);

  const now = seconds.sum(RATE);
  tile("in", number(now.published / RATE), "stored");
  tile("out", number(now.delivered / RATE), "to subscribers");
  const minute = seconds.sum(AGES).ages;
  const [p50, p99] = [0.5, 0.99].map((share) => quantile(share, minute, seconds.bounds));
  tile("p50", latency(p50), "publish to delivery");
  tile("p99", latency(p99), "in the last minute");
  const { websocket = 0, sse = 0, poll = 0 } = look.connections;
  const kinds = [[websocket, "WebSocket"], [sse, "SSE"], [poll, "poll"]].filter(([each]) => each);
  tile("connections", count(websocket + sse + poll), kinds.map(([each, kind]) => `${count(each)} ${kind}`).join(", ") || "none open");
  tile("subscribers", count(look.subscribers), "subscriptions");
  tile("lag", count(look.lag), look.slow ? `${count(look.slow)} slow` : "nobody is slow", look.slow > 0);
  const range = seconds.sum(KEPT);
  tile("gaps", count(range.gaps), range.refused ? `${count(range.refused)} ${range.refused === 1 ? "push" : "pushes"} refused` : "in 15 minutes", range.gaps > 0);
  showBusiest(look.busiest, onChoose);
  draw();
}

function showHealth(state, text, detail) {
  const health = byId("health");
  health.dataset.state = state;
  say(health, text);
  say(byId("health-detail"), detail);
}

function showProblems(problems, warnings) {
  byId("problems").hidden = problems.length === 0;
  list(byId("problems"), problems);
  byId("warnings").hidden = warnings.length === 0;
  say(byId("warnings-title"), `${count(warnings.length)} ${warnings.length === 1 ? "warning" : "warnings"} of the configuration`);
  list(byId("warnings-list"), warnings);
}

function list(node, texts) {
  if (node.childElementCount === texts.length && texts.every((text, index) => node.children[index].textContent === text)) return;
  node.replaceChildren(...texts.map((text) => element("li", { textContent: text })));
}

function tile(name, value, note, isBad = false) {
  const node = byId(`tile-${name}`);
  say(node.querySelector("dd"), value);
  say(node.querySelector(".note"), note);
  node.classList.toggle("is-bad", isBad);
}

function showBusiest(busiest, onChoose) {
  const shown = busiest.slice(0, BUSIEST);
  byId("busiest-none").hidden = shown.length > 0;
  const rows = byId("busiest");
  while (rows.childElementCount > shown.length) rows.lastElementChild.remove();
  while (rows.childElementCount < shown.length) {
    const button = element("button", { type: "button" }, element("span", { className: "name" }), element("meter", { min: 0 }), element("span", { className: "rate" }));
    button.onclick = () => onChoose(button.dataset.busy);
    rows.append(element("li", {}, button));
  }
  shown.forEach(({ channel, rate }, index) => {
    const button = rows.children[index].firstElementChild;
    const [name, meter, value] = button.children;
    button.dataset.busy = channel;
    say(name, channel);
    Object.assign(meter, { max: Math.max(shown[0].rate, 0.1), value: rate, ariaLabel: `${number(rate)} messages per second` });
    say(value, `${number(rate)}/s`);
  });
}

function draw() {
  const { times, length, sums } = seconds.points(Number(byId("range").value));
  rates(times, [sums.map(({ published }) => published / length), sums.map(({ delivered }) => delivered / length)]);
  ages(times, [0.5, 0.99].map((share) => sums.map((sum) => quantile(share, sum.ages, seconds.bounds))));
}
