/** JSON as it was written, coloured. It is never parsed to numbers, which would lose their digits. */

import { element } from "./dom.js";

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s"{}[\]:,]+/g;
const MOST = 20_000; // tokens that are shown
const KINDS = { '"': "string", t: "word", f: "word", n: "word" };

/** The tokens of a text, with their kinds: `key`, `string`, `number`, `word` or `mark`. */
function tokens(text, most) {
  const found = [];
  for (const [token] of text.matchAll(TOKEN)) {
    if (found.length === most) break;
    const last = found.at(-1);
    if (token === ":" && last?.kind === "string") last.kind = "key";
    found.push({ token, kind: "{}[]:,".includes(token) ? "mark" : (KINDS[token[0]] ?? "number") });
  }
  return found;
}

const coloured = ({ token, kind }) => element("span", { className: `json-${kind}`, textContent: token });

/** Return a text in one line, at most about so many characters of it. */
export function inLine(text, most) {
  const shown = element("code", {});
  let left = most;
  for (const each of tokens(text.slice(0, 2 * most), most)) {
    if (each.token.length > left) {
      shown.append(coloured({ ...each, token: each.token.slice(0, left) }), " …");
      break;
    }
    left -= each.token.length;
    shown.append(coloured(each));
  }
  return shown;
}

/** Return a text over several lines, with each level indented. */
export function pretty(text) {
  const shown = element("code", {});
  const all = tokens(text, MOST);
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  all.forEach((each, index) => {
    const { token } = each;
    const opens = token === "{" || token === "[";
    const closes = token === "}" || token === "]";
    const isEmpty = closes && ["{", "["].includes(all[index - 1]?.token);
    if (closes) depth--;
    if (closes && !isEmpty) shown.append(line());
    shown.append(coloured(each));
    if (opens) depth++;
    const next = all[index + 1]?.token;
    if (token === "," || (opens && next !== "}" && next !== "]")) shown.append(line());
    else if (token === ":") shown.append(" ");
  });
  if (all.length === MOST) shown.append("\n… the rest is in what “Copy” copies");
  return shown;
}

/** Split an array of objects, the member `name` of an object's text, into the members of each, as they were written. */
export function membersOf(text, name) {
  const objects = [];
  let [depth, key, start, isIn] = [0, null, 0, false];
  const take = (end) => { if (key !== null) objects.at(-1)[key] = text.slice(start, end).trim(); key = null; };
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    const isMember = isIn && depth === 3; // of one of the objects
    if (token === "{" || token === "[") {
      depth++;
      if (isIn && depth === 3) objects.push({});
    } else if (token === "}" || token === "]") {
      if (isMember) take(index);
      if (--depth === 1) isIn = false;
    } else if (isMember && token === ",") take(index);
    else if (isMember && token === ":" && start < 0) start = index + 1;
    else if (isMember && key === null) [key, start] = [JSON.parse(token), -1];
    else if (depth === 1 && token === `"${name}"`) isIn = true;
  }
  return objects;
}
