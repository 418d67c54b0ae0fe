/** The key or token of this tab: it is asked for once, and kept until the tab is closed. The console and /docs share it. */

const NAME = `abide ${new URL("../..", import.meta.url).pathname}`; // several servers may share an origin

let kept = "";
try {
  kept = sessionStorage.getItem(NAME) ?? "";
} catch {
  // storage is blocked: the page itself remembers it
}

/** Return the key or token, or "". */
export const credential = () => kept;

/** Keep a key or token; "" forgets it. */
export function keep(value) {
  kept = value;
  try {
    if (value) sessionStorage.setItem(NAME, value);
    else sessionStorage.removeItem(NAME);
  } catch {
    // as above
  }
}
