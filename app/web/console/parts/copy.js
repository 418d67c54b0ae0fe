/** Buttons that copy, and words quoted for a shell. */

import { element } from "./dom.js";

const SAID = 1500; // milliseconds

/** Make a button that copies what `text` returns. Without TLS only the user can copy: then `node` is selected. */
export function copyButton(label, name, text, node) {
  const button = element("button", { type: "button", className: "quiet", textContent: label, "aria-label": name });
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      getSelection()?.selectAllChildren(node);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, SAID);
  };
  return button;
}

/** Quote a word for a POSIX shell: between single quotes, only the quote itself is special. */
export const shell = (word) => `'${word.replaceAll("'", `'\\''`)}'`;

/** Make a box of code that can be copied. */
export function codeBox(title, text) {
  const pre = element("pre", { textContent: text, tabIndex: 0, role: "region", "aria-label": title });
  const head = element("div", { className: "snippet-head" }, element("h3", { textContent: title }), copyButton("Copy", `Copy: ${title}`, () => text, pre));
  return element("div", { className: "snippet" }, head, pre);
}
