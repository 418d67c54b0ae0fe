/** The box to publish from. What is not JSON is not sent. */

import { NOWHERE } from "../client.js";
import { byId, say } from "../parts/dom.js";

/** Make the box work. `send` publishes JSON text and returns its position; `onRefused` is given the error of a refusal. */
export function publishing({ send, onRefused }) {
  const [form, box, output] = [byId("publish-form"), byId("data"), byId("published")];

  function tell(text, isBad) {
    output.className = isBad ? "problem" : "";
    box.setAttribute("aria-invalid", String(isBad));
    say(output, text);
  }

  form.onsubmit = async (event) => {
    event.preventDefault();
    const text = box.value;
    try {
      JSON.parse(text);
    } catch (error) {
      const quoted = /^[\w .,!?'-]+$/.test(text.trim()) ? `: ${JSON.stringify(text.trim())}` : "";
      tell(`Not published, because it is not JSON (${error.message}). Put text into double quotes${quoted}`, true);
      return;
    }
    try {
      const position = await send(text);
      tell(position === NOWHERE ? "published" : `stored at ${position}`, false);
    } catch (error) {
      tell(error.message, true);
      onRefused(error);
    }
  };
  box.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  return { clear: () => tell("", false) };
}
