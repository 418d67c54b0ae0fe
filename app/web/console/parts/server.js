/** What the console asks the server besides its subscriptions. */

import { credential } from "./credential.js";

const PATIENCE = 10_000; // milliseconds

/** Where the server is, under any path of a proxy; without a slash at its end. */
export const base = new URL("../..", import.meta.url).href.replace(/\/$/, "");

/** Why the server refused, or `unreachable`; `sent` is the key or token that was sent. */
export class Refusal extends Error {
  constructor(code, message, status, sent) {
    Object.assign(super(message), { code, status, sent });
  }
}

/** GET a path; return the text of the answer, or throw a Refusal. */
export async function read(path) {
  const token = credential();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch(`${base}/${path}`, { headers, signal: AbortSignal.timeout(PATIENCE) }).catch(() => {
    throw new Refusal("unreachable", "The server does not answer.", 0, token);
  });
  const text = await response.text().catch(() => "");
  if (response.ok) return text;
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // it comes from a proxy
  }
  throw new Refusal(problem.code ?? "refused", problem.detail ?? `The server answered ${response.status}.`, response.status, token);
}
