// Upstreams and their servers: trouble first, then in the order of the configuration.

import { $, attribute, badge, el, empty, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { isFull } from "./head.js";
import { stateOf } from "./notice.js";
import { Rates } from "./rates.js";
import { rove, updating } from "./roving.js";
import { serverRow } from "./server-row.js";
import { Order, compare, mark, sortable } from "./sorting.js";

const SHOWN = 40;
const MANY = 100;
/** Names of collapsed upstreams, stored in the browser. */
const COLLAPSED = "leastconn.collapsed";
const rates = new Rates();
/** Whether all servers are shown, instead of the most important ones of each upstream. */
let showsAll = false;
let filter = "";
let changed = () => {};
const collapsed = new Set(stored());
/** The last arguments of `show`. */
let shown = null;

const order = new Order(() => {
  // The page may have only some of the servers, but sorting needs all of them.
  if (order.column && isPartial()) changed();
  redraw();
});

export const query = () => ({ history: true, limit: showsAll || filter || order.column ? undefined : SHOWN });

export const forget = () => rates.forget();

/** `onChange` is called when other servers must be fetched. */
export function start(onChange) {
  changed = onChange;
  $("servers-filter").addEventListener("input", (event) => {
    filter = event.target.value.trim().toLowerCase();
    if (isPartial()) changed();
    redraw();
  });
  $("collapse-all").addEventListener("click", () => {
    const names = shown?.status.upstreams.map((one) => one.name) ?? [];
    const all = names.every((name) => collapsed.has(name));
    for (const name of names) {
      if (all) collapsed.delete(name);
      else collapsed.add(name);
    }
    store();
    redraw();
  });
}

/** Whether the last response did not contain all servers. */
function isPartial() {
  if (!shown) return false;
  return shown.servers.length < shown.status.upstreams.reduce((sum, one) => sum + one.servers, 0);
}

export function show(status, servers, sources, now) {
  rates.update(now, servers.map((one) => [key(one), one.connections]));
  shown = { status, servers, sources };
  redraw();
}

function redraw() {
  if (!shown) return;
  const { status, servers, sources } = shown;
  // One scale for all servers without `max_conns`, so that bars can be compared.
  const scale = servers.reduce((most, one) => (one.max_conns ? most : Math.max(most, one.active)), 1);
  const byUpstream = new Map(status.upstreams.map((one) => [one.name, []]));
  for (const server of servers) byUpstream.get(server.upstream)?.push(server);
  const items = status.upstreams.map((summary) => {
    const own = byUpstream.get(summary.name);
    return {
      summary,
      loaded: own.length,
      servers: sorted(own.filter(matches)),
      sources: sources.filter((one) => one.upstream === summary.name),
      time: status.time,
      scale,
    };
  });
  const found = filter ? items.filter((item) => item.servers.length > 0) : items;
  empty($("no-upstreams"), found.length === 0, filter ? "No server matches." : "None.");
  const total = status.upstreams.reduce((sum, one) => sum + one.servers, 0);
  const matching = found.reduce((sum, item) => sum + item.servers.length, 0);
  text($("servers-total"), filter ? as.plural(matching, "match", "matches") : `${as.plural(total, "server")}`);
  $("collapse-all").hidden = status.upstreams.length === 0;
  text($("collapse-all"), status.upstreams.every((one) => collapsed.has(one.name)) ? "Expand all" : "Collapse all");
  keyed($("upstreams"), found, ({ summary }) => summary.name, card);
}

const key = (server) => `${server.upstream}/${server.server}`;

function matches(server) {
  if (!filter) return true;
  const texts = [key(server), server.address, stateOf(server), server.zone, server.outage?.reason, server.kept_in_use?.reason];
  return texts.some((one) => one?.toLowerCase().includes(filter));
}

/** The rank of a server in the default order: what needs attention comes first. */
function rank(server) {
  if (server.state !== "maint" && (server.health !== "up" || server.kept_in_use)) return 0;
  const state = stateOf(server);
  if (state !== "up" && state !== "unchecked") return 1;
  if (server.effective_weight === 0) return 2;
  return server.slow_start ? 3 : 4;
}

const SORT_KEYS = {
  server: (one) => one.server,
  state: (one) => `${rank(one)} ${stateOf(one)}`,
  open: (one) => one.active,
  new: (one) => rates.of(key(one)),
  connections: (one) => one.connections,
  failed: (one) => one.connect_failures,
};

function sorted(servers) {
  const by = order.column ? SORT_KEYS[order.column] : rank;
  const sign = order.reversed ? -1 : 1;
  const compared = order.column ? compare : (a, b) => a - b;
  // The sort is stable: equal servers keep the order of the configuration.
  return servers.map((one) => [by(one), one]).sort(([a], [b]) => sign * compared(a, b)).map(([, one]) => one);
}

/** A source of servers, with the age of its last answer and the error of its last look-up. */
function sourceItem() {
  const element = el("li");
  return {
    element,
    update: (source) => {
      const age = as.span(source.age_seconds * 1000);
      const answer = source.answered ? `last found ${age} ago` : `none found for ${age}`;
      text(element, [source.source, as.plural(source.servers, "server"), answer, source.error].filter(Boolean).join(" · "));
    },
  };
}

/** The waiting connections of an upstream with a queue. */
function queue({ queued, queue_size, longest_wait_ms }) {
  if (!queued) return queue_size ? "none waiting" : "";
  return `${as.count(queued)} of ${as.count(queue_size)} waiting, longest ${(longest_wait_ms / 1000).toFixed(1)} s`;
}

/** Label, class, and the name by which the column can be sorted. */
const COLUMNS = [
  ["Server", "", "server"],
  ["State", "w-state", "state"],
  ["Open", "w-meter", "open"],
  ["5 minutes", "roomy w-spark", ""],
  ["New/s", "num more w-num", "new"],
  ["Connections", "num more w-wide", "connections"],
  ["Failed", "num more w-num", "failed"],
  ["Change", "w-button", ""],
];
const TEXTS = ["server", "state"];

function headings() {
  const cells = COLUMNS.map(([label, className, column]) => {
    const cell = el("th", className, label === "Change" ? el("span", "unseen", label) : label);
    cell.scope = "col";
    if (!column) return cell;
    cell.dataset.sort = column;
    if (TEXTS.includes(column)) cell.dataset.order = "text";
    sortable(cell, order, true);
    return cell;
  });
  return el("tr", "", ...cells);
}

function card({ summary: { name } }) {
  const toggle = el("button", "toggle", el("span", "chevron"), el("span", "title", name));
  toggle.type = "button";
  toggle.addEventListener("click", () => {
    if (!collapsed.delete(name)) collapsed.add(name);
    store();
    redraw();
  });
  const [up, sum] = [el("span", "badge"), el("span", "quiet last")];
  const rows = el("tbody");
  const titles = headings();
  const table = el("table", "", el("caption", "unseen", `Servers of ${name}`), el("thead", "", titles), rows);
  rove(table);
  const more = el("button", "all");
  more.type = "button";
  more.addEventListener("click", () => {
    showsAll = true;
    changed();
  });
  const found = el("ul", "sources quiet");
  const body = el("div", "servers", found, table, more);
  const element = el("section", "card", el("div", "head", el("h3", "", toggle), up, sum), body);
  element.setAttribute("aria-label", `Upstream ${name}`);
  return {
    element,
    update: ({ summary, loaded, servers, sources, time, scale }) => {
      const open = !collapsed.has(name);
      attribute(toggle, "aria-expanded", open);
      body.hidden = !open;
      const isWarning = summary.available < summary.servers || isFull(summary);
      const kind = summary.available === 0 ? "bad" : isWarning ? "warn" : "good";
      const atMax = isFull(summary) ? ", all at max_conns" : "";
      badge(up, `${as.count(summary.available)} of ${as.count(summary.servers)} available${atMax}`, kind);
      text(sum, [summary.balance, `${as.count(summary.active)} open`, queue(summary)].filter(Boolean).join(" · "));
      found.hidden = sources.length === 0;
      keyed(found, sources, (one) => one.source, sourceItem);
      table.hidden = servers.length === 0;
      more.hidden = loaded >= summary.servers;
      text(more, `Show all ${as.count(summary.servers)} servers`);
      mark(titles, order);
      // Transitions of very many bars would block the browser.
      rows.classList.toggle("many", servers.length > MANY);
      if (!open) return;
      const items = servers.map((server) => ({ server, scale, time, rate: rates.of(key(server)) }));
      updating(table, () => keyed(rows, items, ({ server }) => key(server), serverRow));
    },
  };
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(COLLAPSED)) ?? [];
  } catch {
    // Storage is disabled.
    return [];
  }
}

function store() {
  try {
    if (collapsed.size > 0) localStorage.setItem(COLLAPSED, JSON.stringify([...collapsed]));
    else localStorage.removeItem(COLLAPSED);
  } catch {
    // Storage is disabled: the choice lasts until the page is reloaded.
  }
}
