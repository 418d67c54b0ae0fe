/** The list of channels, with those of a family that are busy. */

import { byId, element, say } from "../parts/dom.js";
import { count, number } from "../parts/format.js";
import { read } from "../parts/server.js";

const [OFTEN, SELDOM, MANY] = [2000, 30_000, 500]; // milliseconds between two requests, and the channels from which on
const MOST = 200; // rows

export const isFamily = (name) => name.includes("{");

/** Whether a channel's name is one of a declared name's. */
function isOf(name, declared) {
  const [prefix, suffix] = declared.split(/\{.*\}/);
  return suffix === undefined ? name === declared : name.length > declared.length - 2 - declared.indexOf("}") + declared.indexOf("{") && name.startsWith(prefix) && name.endsWith(suffix);
}

/** Make the list. `onChoose` is given a name, `onListed` follows each list, `onRefused` gets why there is none. */
export function channels({ onChoose, onListed, onRefused }) {
  let [declared, busiest, rates, chosen, timer, drawn] = [[], [], {}, null, undefined, ""];
  const find = byId("watch");

  async function list() {
    clearTimeout(timer);
    try {
      declared = JSON.parse(await read("channels")).channels;
      byId("channels").hidden = false;
      draw();
      onListed();
    } catch (error) {
      onRefused(error);
      if (error.status === 401 || error.status === 403) return; // until there is another key
    }
    timer = setTimeout(() => document.hidden || list(), declared.length > MANY ? SELDOM : OFTEN);
  }

  /** The rows: each declared name, and after a family those of it that are busy. */
  function rows() {
    const text = find.value.trim().toLowerCase();
    const fits = (name) => name.toLowerCase().includes(text) || (isFamily(name) && name.toLowerCase().startsWith(text.slice(0, name.indexOf("{"))));
    return declared.filter(({ name }) => !text || fits(name)).flatMap(({ name, subscribers }) => [
      { name, subscribers: count(subscribers), rate: rates[name] ?? 0 },
      ...busiest.filter((each) => isFamily(name) && each.declared === name).map(({ channel, rate }) => ({ name: channel, subscribers: "", rate, isMember: true })),
    ]);
  }

  function draw() {
    const all = rows();
    const shown = all.slice(0, MOST);
    const names = shown.map(({ name }) => name).join("\n");
    if (names !== drawn) {
      const focused = document.activeElement?.dataset?.channel;
      byId("list").replaceChildren(...shown.map(rowOf));
      if (focused) buttonOf(focused)?.focus();
      drawn = names;
    }
    shown.forEach(({ name, subscribers, rate }, index) => {
      const [first, second, third] = byId("list").children[index].children;
      first.firstElementChild.setAttribute("aria-current", String(name === chosen));
      say(second, subscribers);
      say(third, rate ? number(rate) : "–");
      third.classList.toggle("is-live", rate > 0);
    });
    say(byId("list-more"), all.length > MOST ? `and ${count(all.length - MOST)} more: type a part of a name` : all.length ? "" : "No channel has this in its name. Press Enter to watch it all the same.");
  }

  function rowOf({ name, isMember }) {
    const button = element("button", { type: "button", textContent: name, title: name });
    button.dataset.channel = name;
    button.onclick = () => (isFamily(name) ? ask(name) : onChoose(name));
    return element("tr", { className: isMember ? "member" : "" }, element("td", {}, button), element("td", {}), element("td", {}));
  }

  /** Ask which channel of a family to watch. */
  function ask(family) {
    find.value = family.slice(0, family.indexOf("{"));
    find.focus();
    draw();
  }

  const buttonOf = (name) => byId("list").querySelector(`[data-channel="${CSS.escape(name)}"]`);

  find.oninput = draw;
  byId("watch-form").onsubmit = (event) => {
    event.preventDefault();
    onChoose(find.value.trim());
  };
  document.addEventListener("visibilitychange", () => document.hidden || list());
  list();
  return {
    list,
    take: (look) => { [busiest, rates] = [look.busiest, look.rates]; draw(); },
    choose: (name) => { chosen = name; draw(); },
    policy: (name) => declared.filter((each) => isOf(name, each.name)).sort((a, b) => isFamily(a.name) - isFamily(b.name) || b.name.indexOf("{") - a.name.indexOf("{"))[0],
    firstOpen: () => declared.find(({ name, publish }) => !isFamily(name) && publish !== "nobody"),
  };
}
