/** The page of the API: reads openapi.json from beside it, with a key where one is asked for, and shows it. */

const byId = (id) => document.getElementById(id);
const address = new URL("../openapi.json", import.meta.url); // under whatever path a proxy has the server

async function show(key) {
  const response = await fetch(address, { headers: key ? { authorization: `Bearer ${key}` } : {} });
  const body = await response.json();
  byId("key-form").hidden = response.status !== 401;
  byId("problem").textContent = response.ok || (response.status === 401 && !key) ? "" : body.detail;
  if (!response.ok) return;
  const ui = SwaggerUIBundle({
    spec: body,
    domNode: byId("api"),
    deepLinking: true,
    validatorUrl: null, // which is a server of somebody else's
    onComplete: () => key && ui.preauthorizeApiKey("key", key),
  });
}

byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  show(byId("key").value);
};
show("");
