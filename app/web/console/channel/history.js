/** The history of a channel, page by page. */

import { membersOf } from "../parts/json.js";
import { read } from "../parts/server.js";

export const PAGE = 50; // messages

const split = (position) => { const [epoch, offset] = position.split(":"); return { epoch, offset: Number(offset) }; };

/** Read up to so many messages after an offset; return them oldest first, and whether the log has more on both sides. */
async function page(channel, epoch, after, limit) {
  const text = await read(`${encodeURIComponent(channel)}/history?since=${epoch}:${Math.max(0, after)}&limit=${limit}`);
  const { first, last } = JSON.parse(text);
  const items = membersOf(text, "messages").map(({ position, time, data }) => ({ position: JSON.parse(position), time: Number(time), raw: data }));
  const [from, to] = items.length ? [items[0], items.at(-1)].map(({ position }) => split(position).offset) : [after + 1, after];
  return { items, hasOlder: from > first, hasNewer: to < last };
}

/** The page before a position. */
export async function before(channel, position) {
  const { epoch, offset } = split(position);
  const found = await page(channel, epoch, offset - 1 - PAGE, PAGE);
  const items = found.items.filter((item) => split(item.position).offset < offset);
  return { ...found, items };
}

/** The page around a position. */
export const around = (channel, position) => page(channel, split(position).epoch, split(position).offset - 1 - PAGE / 2, PAGE);

/** The page after a position. */
export const after = (channel, position) => page(channel, split(position).epoch, split(position).offset, PAGE);
