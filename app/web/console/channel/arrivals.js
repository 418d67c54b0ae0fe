/** The charts of one channel: what this page received since it subscribed, second by second. */

import { chart } from "../parts/chart.js";
import { byId } from "../parts/dom.js";
import { number, time as timeText } from "../parts/format.js";

const KEPT = 900; // seconds
const POINTS = 60; // of a chart
const MOST_SAMPLES = 500; // of a second

/** Make the charts. `count` takes a message's time in milliseconds; `begin` starts over. */
export function arrivals() {
  const rate = chart(byId("channel-rate"), { title: "Messages per second", lines: [{ name: "received", kind: "first" }], format: number });
  const delay = chart(byId("channel-latency"), {
    title: "Latency to this page",
    lines: [{ name: "median", kind: "second" }, { name: "slowest", kind: "third" }],
    format: timeText,
    least: 0.004,
  });
  const seconds = new Map();
  let since = Date.now();

  function begin() {
    seconds.clear();
    since = Date.now();
    draw();
  }

  function count(time) {
    if (time !== undefined && time < since) return; // published before this page subscribed
    const now = Math.floor(Date.now() / 1000);
    const second = seconds.get(now) ?? { messages: 0, delays: [] };
    seconds.set(now, second);
    second.messages++;
    if (time !== undefined && second.delays.length < MOST_SAMPLES) second.delays.push(Math.max(0, Date.now() - time) / 1000); // clocks differ
  }

  function draw() {
    const length = Number(byId("range").value) / POINTS;
    const now = Math.floor(Date.now() / 1000);
    for (const second of seconds.keys()) if (second <= now - KEPT - length) seconds.delete(second);
    const last = now - (now % length) - 1;
    const times = Array.from({ length: POINTS }, (_, index) => last - (POINTS - 1 - index) * length);
    const sums = times.map((time) => {
      const found = Array.from({ length }, (_, back) => seconds.get(time - back)).filter(Boolean);
      return { messages: found.reduce((sum, { messages }) => sum + messages, 0), delays: found.flatMap(({ delays }) => delays).sort((a, b) => a - b) };
    });
    rate(times, [sums.map(({ messages }) => messages / length)]);
    delay(times, [sums.map(({ delays }) => delays[delays.length >> 1] ?? null), sums.map(({ delays }) => delays.at(-1) ?? null)]);
  }

  byId("range").addEventListener("change", draw);
  setInterval(draw, 1000);
  return { begin, count };
}
