/** The API page: it loads openapi.json, with a key if the server needs one, and shows it. */

import { credential, keep } from "../console/parts/credential.js";

const byId = (id) => document.getElementById(id);
const address = new URL("../openapi.json", import.meta.url); // relative, so it works under any path of a proxy

async function show(key) {
  const response = await fetch(address, { headers: key ? { authorization: `Bearer ${key}` } : {} });
  const body = await response.json();
  byId("key-form").hidden = response.status !== 401;
  byId("problem").textContent = response.ok || (response.status === 401 && !key) ? "" : body.detail;
  if (!response.ok) return;
  keep(key);
  const ui = SwaggerUIBundle({
    spec: body,
    domNode: byId("api"),
    deepLinking: true,
    validatorUrl: null, // the default validator is another company's server
    onComplete: () => key && ui.preauthorizeApiKey("key", key),
  });
}

byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  show(byId("key").value);
};
show(credential());
