// Client rules and their connections: expired rules first, then most open connections.

import { get } from "./api.js";
import { $, attribute, badge, bar, breakable, el, empty, fill, keyed, name, text } from "./dom.js";
import * as as from "./format.js";
import { Rates } from "./rates.js";
import { rove, updating } from "./roving.js";
import { Order, compare, mark, sortable } from "./sorting.js";

const SHOWN = 12;
/** Maximum number of rows. The search finds further rules. */
const MAX_ROWS = 500;
const rates = new Rates();
/** Sorting more rules than this is expensive, so they are fetched less often. */
const MANY = 5000;
/** Interval for many rules, milliseconds. */
const SLOW_INTERVAL = 10_000;
let limit = SHOWN;
let search = "";
let last = null;
let changed = () => {};
const order = new Order(() => changed());

/** The balancer sorts the rules, because the page has only some of them. It knows no rates:
 * for these, the page sorts the rules with the most open connections. */
const parameters = () =>
  order.column === "new" ? { sort: "attention", limit: MAX_ROWS, search } : { sort: order.column ?? "attention", limit, search };

/** Fetches the rules, or returns a recent response. */
export async function fetchRules() {
  const asked = parameters();
  const key = JSON.stringify(asked);
  const now = performance.now();
  if (last?.key === key && last.total > MANY && now - last.at < SLOW_INTERVAL) return last;
  const response = await get("clients", asked);
  last = { ...response, key, at: now };
  return last;
}

export function forget() {
  rates.forget();
  last = null;
}

/** Sets up search and order. Calls `onChange` when other client rules must be fetched. */
export function start(onChange) {
  changed = onChange;
  $("clients-search").addEventListener("input", (event) => {
    search = event.target.value.trim();
    changed();
  });
  $("clients-all").addEventListener("click", () => {
    limit = MAX_ROWS;
    changed();
  });
  const table = $("clients").closest("table");
  for (const cell of table.querySelectorAll("[data-sort]")) sortable(cell, order, false);
  rove(table);
}

export function show({ clients, total, at }, time) {
  rates.update(at, clients.map((one) => [one.client, one.connections]));
  let shown = clients;
  if (order.column === "new") {
    shown = [...clients].sort((a, b) => compare(rates.of(a.client), rates.of(b.client))).slice(0, limit);
  }
  text($("clients-total"), search ? `${as.plural(total, "match", "matches")}` : as.plural(total, "rule"));
  attribute($("clients-total"), "data-value", total);
  empty($("no-clients"), total === 0, search ? "No client rule matches." : "No client rules: every client is refused.");
  $("clients").closest(".scroll").hidden = total === 0;
  const more = $("clients-all");
  more.hidden = shown.length >= total || limit >= MAX_ROWS;
  text(more, total > MAX_ROWS ? `Show ${as.count(MAX_ROWS)} of ${as.count(total)}` : `Show all ${as.count(total)}`);
  const most = shown.reduce((most, one) => Math.max(most, one.active), 1);
  const table = $("clients").closest("table");
  mark(table.tHead.rows[0], order);
  const items = shown.map((client) => ({ client, most, time }));
  updating(table, () => keyed($("clients"), items, ({ client }) => client.client, row));
}

function row({ client }) {
  const [sub, flag] = [el("span", "sub"), el("span", "badge")];
  const heading = el("th", "", el("div", "names", el("span", "name", ...breakable(client.client)), flag, sub));
  heading.scope = "row";
  const { outer, inner } = bar();
  const active = el("b");
  const [rate, refusedCell] = [el("td", "num"), el("td", "num")];
  const [failed, total] = [el("td", "num more"), el("td", "num more")];
  const [bounds, reach] = [el("span", "sub long"), el("span", "name")];
  const [limits, allow] = [el("td", "more", bounds), el("td", "more", reach)];
  const meter = el("td", "", el("span", "gauge", el("span", "amount", active), outer));
  const element = el("tr", "", heading, meter, rate, refusedCell, failed, total, limits, allow);
  element.dataset.client = client.client;
  return {
    element,
    update: ({ client: now, most, time }) => {
      const expired = now.expires && Date.parse(now.expires) <= Date.parse(time);
      flag.hidden = !expired && now.mode !== "shadow";
      badge(flag, expired ? "expired" : "shadow", expired ? "bad" : "warn");
      const match = now.match.join(", ");
      name(sub, now.expires ? `${match} · until ${as.date(now.expires)}` : match);
      attribute(heading, "title", `${now.client}: ${sub.textContent}`);
      text(active, as.count(now.active));
      attribute(active, "data-value", now.active);
      fill(inner, now.active / most);
      text(rate, as.rate(rates.of(now.client)));
      for (const [cell, count] of [[refusedCell, now.refused], [failed, now.failed]]) {
        text(cell, as.count(count));
        attribute(cell, "data-value", count);
        attribute(cell, "title", reasons(now.outcomes));
      }
      text(total, as.count(now.connections));
      attribute(total, "data-value", now.connections);
      text(bounds, limitsOf(now));
      text(reach, now.allow.join(", "));
      attribute(allow, "title", reach.textContent);
    },
  };
}

const reasons = (outcomes) => Object.entries(outcomes).map(([code, n]) => `${code} ${as.count(n)}`).join("\n") || null;

function limitsOf({ rate_limit: rate, max_conns: most }) {
  const parts = [];
  if (rate) parts.push(`${Number(rate.rate.toFixed(2))}/s, burst ${as.count(rate.burst)}`);
  if (most) parts.push(`${as.count(most)} concurrent`);
  return parts.join(" · ") || "none";
}
