/** The console page: puts its parts together. */

import { channel, linkOf } from "./channel/channel.js";
import { channels, isFamily } from "./landing/channels.js";
import { connect } from "./client.js";
import { codeBox } from "./parts/copy.js";
import { credential, keep } from "./parts/credential.js";
import { byId, say } from "./parts/dom.js";
import { overview } from "./landing/overview.js";
import { base } from "./parts/server.js";
import { publishing } from "./channel/snippets.js";

const NAME = /^[A-Za-z0-9_.:|@+=~'-]{1,255}$/; // a channel's name
const POSITION = /^[A-Za-z0-9]{1,64}:\d{1,16}$/;
const REFUSED = ["unauthorised", "expired"];
const FOR_OPERATORS = "This server shows its state to operators";

let abide = newClient();

function newClient() {
  return connect(base, { token: credential() || undefined, onState: showState });
}

function showState(state, { transport, delay, reason }) {
  const texts = {
    open: transport === "sse" ? "Live by SSE" : "Live",
    waiting: `${reason}; trying again in ${((delay ?? 0) / 1000).toFixed(1)} s`,
    connecting: "Connecting …",
    closed: "Not connected",
  };
  say(byId("state"), texts[state]);
  byId("state").dataset.state = state;
}

/** Whether a stranger needs a key to publish: then what is copied has a place for it. */
function needsKey(declared) {
  const policy = declared?.publish ?? "";
  return (/\bkey\b/.test(policy) && !/\banyone\b/.test(policy)) || (/\boperators\b/.test(policy) && credential() !== "");
}

const view = channel({ client: () => abide, policy: (name) => list.policy(name), needsKey, onRefused: channelRefused });
const list = channels({ onChoose: choose, onListed: listed, onRefused: refused });
const look = overview({ onLook: looked, onRefused: lookRefused, onChoose: choose });
let isClosed = false; // the overview was refused, whatever a channel says
let followed = ""; // the part of the address that was last shown; it differs while a click is on its way here

/** Go to a channel, which the address then names. */
function choose(name) {
  if (!NAME.test(name)) return;
  if (location.hash === linkOf(name)) follow();
  else location.hash = linkOf(name);
}

/** Show what the address names: a channel, and perhaps a position. It may contain any text. */
function follow() {
  followed = location.hash;
  const [encoded, position, ...rest] = location.hash.slice(1).split("/");
  let name = "";
  try {
    name = decodeURIComponent(encoded);
  } catch {
    return; // not a valid link
  }
  if (!NAME.test(name) || rest.length || (position !== undefined && !POSITION.test(position))) return;
  view.open(name, position);
  list.choose(name);
}

function looked(seen) {
  if (isClosed) byId("key-form").hidden = true;
  isClosed = false;
  if (byId("key-form").hidden) say(byId("list-problem"), "");
  byId("forget").hidden = credential() === "";
  list.take(seen);
  const busy = seen.busiest.find(({ channel: name }) => !isFamily(name));
  if (!view.isOpen() && location.hash === followed && busy) {
    history.replaceState(null, "", linkOf(busy.channel)); // nobody chose it: the way back is not to an empty page
    follow();
  }
}

function listed() {
  view.showPolicy();
  const first = list.firstOpen();
  if (view.isOpen() || !first || !byId("start").hidden) return;
  byId("start").hidden = false;
  byId("first").replaceChildren(codeBox("Publish the first message", publishing(first.name, needsKey(first))));
  say(byId("first-publish"), `Publish it to ${first.name} from here`);
  byId("first-publish").onclick = async () => {
    try {
      await abide.publish(first.name, { hello: "world" });
      choose(first.name);
    } catch (error) {
      say(byId("first-problem"), error.message);
      refused(error);
    }
  };
}

/** Ask for a key or a token when the server wants one, or refused the one there is; one may be there since. */
function refused({ code, message, sent = credential() }, title = FOR_OPERATORS) {
  if (sent !== credential()) return;
  if (code === "forbidden") say(byId("list-problem"), message);
  if (!REFUSED.includes(code)) return;
  if (credential()) say(byId("list-problem"), message);
  keep("");
  say(byId("key-title"), title);
  byId("key-form").hidden = false;
}

function channelRefused(error) {
  refused(error, isClosed ? FOR_OPERATORS : `${view.name()} asks for a key or a token`);
}

function lookRefused(error) {
  isClosed = true;
  refused(error);
}

function restart() {
  isClosed = false;
  abide.close();
  abide = newClient();
  look();
  list.list();
  view.again();
}

byId("key-form").onsubmit = (event) => {
  event.preventDefault();
  keep(byId("key").value);
  byId("key").value = "";
  byId("key-form").hidden = true;
  say(byId("list-problem"), "");
  restart();
};
byId("forget").onclick = () => {
  keep("");
  location.reload();
};
addEventListener("hashchange", () => {
  follow();
  const view = byId("channel"); // below everything else on a phone
  if (view.getBoundingClientRect().top > innerHeight) view.scrollIntoView();
});
follow();
