/** Programs that use a channel, to be copied. What comes from outside is quoted for the shell or the program. */

import { codeBox, shell } from "../parts/copy.js";
import { base } from "../parts/server.js";

const literal = JSON.stringify; // a literal in JavaScript and in Python, which read the same escapes

/** The curl that publishes to a channel. */
export function publishing(channel, needsKey) {
  const authorization = needsKey ? "-H 'authorization: Bearer <key>' " : "";
  return `curl ${authorization}-H 'content-type: application/json' -d '{"hello":"world"}' ${shell(`${base}/push/${encodeURIComponent(channel)}`)}`;
}

/** Boxes with the programs for a channel. */
export function snippets(channel, needsKey) {
  const path = encodeURIComponent(channel);
  const texts = {
    "Publish with curl": publishing(channel, needsKey),
    "Subscribe with curl": `curl -N -H 'accept: text/event-stream' ${shell(`${base}/${path}?last=10`)}`,
    "Subscribe in JavaScript": `import { connect } from ${literal(`${base}/client.js`)};

const abide = connect(${literal(base)});
abide.subscribe(${literal(channel)}, { onMessage: ({ data }) => console.log(data) });`,
    "Subscribe in Python": `import asyncio, websockets  # "pip install websockets"; the package abide-client resumes as well


async def main():
    async for socket in websockets.connect(${literal(`${base.replace(/^http/, "ws")}/${path}`)}):
        try:
            async for message in socket:
                print(message)
        except websockets.ConnectionClosed:
            continue


asyncio.run(main())`,
  };
  return Object.entries(texts).map(([title, text]) => codeBox(title, text));
}
