// Open connections, newest first. The balancer searches and sorts, because the page has only
// some of the connections.

import * as control from "./control.js";
import { $, attribute, el, empty, keyed, name, text } from "./dom.js";
import * as as from "./format.js";
import { rove, updating } from "./roving.js";
import { Order, mark, sortable } from "./sorting.js";

const SHOWN = 20;
/** Maximum number of rows. The search finds further connections. */
const MAX_ROWS = 250;
let limit = SHOWN;
let search = "";
let changed = () => {};
const order = new Order(() => changed());

/** The order in the API of a column. The age is first sorted from the oldest down. */
const sort = () => (order.column === "age" ? (order.reversed ? "newest" : "oldest") : (order.column ?? undefined));

export const query = () => ({ limit, search, sort: sort() });

/** `onChange` is called when other connections must be fetched. */
export function start(onChange) {
  changed = onChange;
  $("connections-search").addEventListener("input", (event) => {
    search = event.target.value.trim();
    changed();
  });
  $("connections-all").addEventListener("click", () => {
    limit = MAX_ROWS;
    changed();
  });
  const table = $("connections").closest("table");
  for (const cell of table.querySelectorAll("[data-sort]")) sortable(cell, order, cell.dataset.sort === "age");
  rove(table);
}

export function show({ connections, total }) {
  text($("connections-total"), search ? as.plural(total, "match", "matches") : `${as.count(total)} open`);
  attribute($("connections-total"), "data-value", total);
  empty($("no-connections"), connections.length === 0, search ? "No open connection matches." : "No open connections.");
  $("connections").closest(".scroll").hidden = connections.length === 0;
  const more = $("connections-all");
  more.hidden = connections.length >= total || limit >= MAX_ROWS;
  text(more, total > MAX_ROWS ? `Show ${as.count(MAX_ROWS)} of ${as.count(total)}` : `Show all ${as.count(total)}`);
  const table = $("connections").closest("table");
  mark(table.tHead.rows[0], order);
  updating(table, () => keyed($("connections"), connections, (one) => one.connection, row));
}

function row({ connection }) {
  const [client, identity] = [el("span", "name"), el("span", "sub mono")];
  // Narrow screens have no columns for these.
  const [from, narrowTo] = [el("span", "sub only-narrow"), el("span", "sub only-narrow")];
  const [source, proxy] = [el("span", "name"), el("span", "sub")];
  const [listener, sni] = [el("span", "name"), el("span", "sub")];
  const [server, stage] = [el("span", "name"), el("span", "sub")];
  const [received, sent, age] = [el("td", "num more"), el("td", "num more"), el("td", "num")];
  const heading = el("th", "", el("div", "names", client, identity, from, narrowTo));
  heading.scope = "row";
  const end = el("button", "small", "Close …");
  end.type = "button";
  end.setAttribute("aria-haspopup", "dialog");
  let latest = null;
  end.addEventListener("click", () => control.open(closeDialog(() => latest)));
  const cell = (className, ...children) => el("td", className, ...children);
  const element = el(
    "tr",
    "",
    // The ID has no thousands separators, because `ctl` accepts none.
    cell("num more quiet", String(connection)),
    heading,
    cell("more", source, proxy),
    cell("more", listener, sni),
    cell("more", server, stage),
    received,
    sent,
    age,
    cell("num", end),
  );
  element.dataset.connection = connection;
  return {
    element,
    update: (now) => {
      latest = now;
      control.refresh(keyOf(now));
      attribute(end, "aria-label", `Close connection ${connection} of ${now.client ?? now.source}`);
      name(client, now.client ?? "unknown yet");
      name(identity, now.identity ?? "");
      attribute(heading, "title", [now.client, now.identity, now.serial && `serial ${now.serial}`].filter(Boolean).join("\n") || null);
      text(source, now.source);
      text(from, now.source);
      text(proxy, now.proxy ? `via ${now.proxy}` : "");
      attribute(source, "title", now.source);
      text(listener, now.listener);
      name(sni, now.sni ?? "");
      attribute(sni, "title", now.sni);
      const to = destination(now);
      text(server, to || "–");
      attribute(server, "title", to || null);
      text(narrowTo, to ? `→ ${to}` : now.stage);
      text(stage, now.stage === "relaying" ? "" : now.stage);
      text(received, as.bytes(now.bytes_received));
      text(sent, as.bytes(now.bytes_sent));
      text(age, as.span(now.duration_ms));
      attribute(age, "title", `since ${as.moment(now.time)}`);
    },
  };
}

const keyOf = (one) => `connection ${one.connection}`;
const destination = (one) => [one.upstream, one.server].filter(Boolean).join("/");

/** The dialog that closes a connection, with its last known state. */
function closeDialog(now) {
  const { connection } = now();
  return {
    key: keyOf(now()),
    title: `Close connection ${connection}?`,
    describe: () => {
      const { client, identity, source, duration_ms: age } = now();
      const who = client ? `Client ${client}` : "Unknown client";
      const to = destination(now());
      return `${who}${identity ? ` (${identity})` : ""}, from ${source}${to && `, to ${to}`}, open for ${as.span(age)}. The client may reconnect immediately.`;
    },
    choices: [
      {
        label: "Close it",
        description: "Client and server are disconnected. The outcome is killed.",
        danger: true,
        path: "connections/kill",
        body: { connection },
        done: `Connection ${connection} is closed.`,
        command: ["kill", "--connection", String(connection)],
      },
    ],
    once: true,
  };
}
