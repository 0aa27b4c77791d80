// Open connections, the newest first, with search: the balancer searches, since the
// page has only some of them.

import { $, attribute, el, empty, keyed, text } from "./dom.js";
import * as as from "./format.js";

const SHOWN = 20;
/** As many as the API gives at once. */
const MOST = 1000;
let limit = SHOWN;
let search = "";

export const query = () => ({ limit, search });

/** `changed` is called when other connections are asked for. */
export function start(changed) {
  $("connections-search").addEventListener("input", (event) => {
    search = event.target.value.trim();
    changed();
  });
  $("connections-all").addEventListener("click", () => {
    limit = MOST;
    changed();
  });
}

export function show({ connections, total }) {
  text($("connections-total"), search ? as.plural(total, "match", "matches") : `${as.count(total)} open`);
  attribute($("connections-total"), "data-value", total);
  empty($("no-connections"), connections.length === 0, search ? "No open connection has this in it." : "Nobody is connected.");
  $("connections").closest(".scroll").hidden = connections.length === 0;
  const more = $("connections-all");
  more.hidden = connections.length >= total || limit >= MOST;
  text(more, total > MOST ? `Show ${as.count(MOST)} of ${as.count(total)}` : `Show all ${as.count(total)}`);
  keyed($("connections"), connections, (one) => one.connection, row);
}

function row({ connection }) {
  const [client, identity] = [el("span", "name"), el("span", "sub mono")];
  const [source, proxy] = [el("span", "name"), el("span", "sub")];
  const [listener, sni] = [el("span", "name"), el("span", "sub")];
  const [server, stage] = [el("span", "name"), el("span", "sub")];
  const [received, sent, age] = [el("td", "num more"), el("td", "num more"), el("td", "num")];
  const heading = el("th", "", client, identity);
  heading.scope = "row";
  const cell = (className, ...children) => el("td", className, ...children);
  const element = el(
    "tr",
    "",
    cell("num more quiet", as.count(connection)),
    heading,
    cell("more", source, proxy),
    cell("more", listener, sni),
    cell("", server, stage),
    received,
    sent,
    age,
  );
  element.dataset.connection = connection;
  return {
    element,
    update: (now) => {
      text(client, now.client ?? "not known yet");
      text(identity, now.identity ?? "");
      attribute(heading, "title", [now.client, now.identity, now.serial && `serial ${now.serial}`].filter(Boolean).join("\n") || null);
      text(source, now.source);
      text(proxy, now.proxy ? `by ${now.proxy}` : "");
      attribute(source, "title", now.source);
      text(listener, now.listener);
      text(sni, now.sni ?? "");
      attribute(sni, "title", now.sni);
      const to = [now.upstream, now.server].filter(Boolean).join("/");
      text(server, to || "–");
      attribute(server, "title", to || null);
      text(stage, now.stage === "relaying" ? "" : now.stage);
      text(received, as.bytes(now.bytes_received));
      text(sent, as.bytes(now.bytes_sent));
      text(age, as.span(now.duration_ms));
      attribute(age, "title", `since ${as.moment(now.time)}`);
    },
  };
}
