/** A chart of a few lines over time: axes, and values under the pointer or the arrow keys. Drawn in SVG, styled by CSS. */

import { element, say } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 132;
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 8, 8, 20]; // room around the lines
const SVG = "http://www.w3.org/2000/svg";
const STEPS = [1, 2, 5, 10];
const WIDEST_LABEL = 84; // pixels for a time

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Return the ends of at most four equal steps from 0 that reach a value. */
function steps(most) {
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const step = power * STEPS.find((each) => power * each * 4 >= most * 0.999);
  return Array.from({ length: Math.ceil(most / step - 0.001) + 1 }, (_, index) => index * step);
}

/**
 * Make a chart in a figure. `lines` are `{ name, kind }`, where `kind` is a class of the style sheet; `format` makes a text
 * of a value; `least` is the least height of the axis. Returns `draw(times, values)`: times in seconds, ascending and
 * equally far apart, and for each line its values, null where there is none.
 */
export function chart(figure, { title, lines, format, least = 1 }) {
  const plot = svg("svg", { role: "img", "aria-label": title });
  const readout = element("output", { className: "readout" });
  const area = element("div", { className: "plot", tabIndex: 0, role: "group", "aria-label": `${title}: arrow keys read values` }, plot);
  const legend = lines.map(({ name, kind }) => element("span", { className: `legend ${kind}` }, name));
  figure.replaceChildren(element("figcaption", {}, element("h3", { textContent: title }), ...legend, readout), area);

  let [times, values, at, width, scale] = [[], lines.map(() => []), null, 0, []];
  const x = (index) => LEFT + (index / Math.max(1, times.length - 1)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - value / scale.at(-1)) * (HEIGHT - TOP - BOTTOM);

  function path(points) {
    let [d, isDrawn] = ["", false];
    points.forEach((value, index) => {
      if (value !== null) d += `${isDrawn ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      isDrawn = value !== null;
    });
    return d;
  }

  function axes() {
    const parts = scale.flatMap((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)),
    ]);
    const fits = Math.max(1, Math.floor((width - LEFT - RIGHT) / WIDEST_LABEL));
    for (let part = 0; part <= fits && times.length > 1; part++) {
      const index = Math.round((part / fits) * (times.length - 1));
      const anchor = part === 0 ? "start" : part === fits ? "end" : "middle";
      parts.push(svg("text", { class: "tick", x: x(index), y: HEIGHT - 4, "text-anchor": anchor }, clock(new Date(times[index] * 1000))));
    }
    return parts;
  }

  function lineOf(points, { kind }) {
    const d = path(points);
    const found = [svg("path", { class: `line ${kind}`, d })];
    if (d && !points.includes(null)) {
      const floor = `L${x(points.length - 1)} ${y(0)}L${x(0)} ${y(0)}Z`;
      found.unshift(svg("path", { class: `area ${kind}`, d: d + floor }));
    }
    points.forEach((value, index) => { // a value without neighbours is a point
      const isAlone = value !== null && (points[index - 1] ?? null) === null && (points[index + 1] ?? null) === null;
      if (isAlone) found.push(svg("circle", { class: `dot ${kind}`, cx: x(index), cy: y(value), r: 2.5 }));
    });
    return found;
  }

  function cursor() {
    if (at === null || at >= times.length) return [];
    const dots = lines.map(({ kind }, line) => [kind, values[line][at]]).filter(([, value]) => value !== null);
    return [
      svg("line", { class: "cursor", x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM }),
      ...dots.map(([kind, value]) => svg("circle", { class: `dot ${kind}`, cx: x(at), cy: y(value), r: 3.5 })),
    ];
  }

  const shown = (index) =>
    lines.map(({ name }, line) => `${name} ${values[line][index] === null ? "–" : format(values[line][index])}`).join(" · ");

  function render() {
    if (!width || !times.length) return;
    scale = steps(Math.max(least, ...values.flat()));
    plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    plot.replaceChildren(...axes(), ...lines.flatMap((line, index) => lineOf(values[index], line)), ...cursor());
    plot.setAttribute("aria-label", `${title}, now ${shown(times.length - 1)}`);
    const read = at !== null && at < times.length ? `${clock(new Date(times[at] * 1000))} · ${shown(at)}` : "";
    say(readout, read);
    figure.classList.toggle("is-read", read !== "");
  }

  function move(to) {
    at = to === null ? null : Math.min(Math.max(to, 0), times.length - 1);
    render();
  }

  area.onpointermove = ({ clientX }) => {
    const within = clientX - area.getBoundingClientRect().left - LEFT;
    move(Math.round((within / (width - LEFT - RIGHT)) * (times.length - 1)));
  };
  area.onpointerleave = () => move(null);
  area.onblur = () => move(null);
  area.onkeydown = (event) => {
    const last = times.length - 1;
    const to = { ArrowLeft: (at ?? last + 1) - 1, ArrowRight: (at ?? last - 1) + 1, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  };
  new ResizeObserver(([{ contentRect }]) => { width = Math.round(contentRect.width); render(); }).observe(area);

  return (newTimes, newValues) => { [times, values] = [newTimes, newValues]; render(); };
}
