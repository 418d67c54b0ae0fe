/** Elements. Values of users go in as text, never as markup. */

export const byId = (id) => document.getElementById(id);

/** Make an element with properties; those with a dash, such as `aria-label`, are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Set a text only if it differs, so that nothing is drawn or read aloud anew. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
