// Client rules and their connections, most open connections first.

import { get } from "./api.js";
import { $, attribute, bar, el, empty, fill, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { Rates } from "./rates.js";

const SHOWN = 12;
/** Maximum number of rows. The search finds further rules. */
const MAX_ROWS = 250;
const rates = new Rates();
/** Sorting more rules than this is expensive, so they are fetched less often. */
const MANY = 5000;
/** Interval for many rules, milliseconds. */
const SLOW_INTERVAL = 10_000;
let limit = SHOWN;
let search = "";
let last = null;

/** Fetches the rules, or returns a recent response. */
export async function fetchRules() {
  const parameters = JSON.stringify([limit, search]);
  const now = performance.now();
  if (last?.parameters === parameters && last.total > MANY && now - last.at < SLOW_INTERVAL) return last;
  const response = await get("clients", { sort: "active", limit, search });
  last = { ...response, parameters, at: now };
  return last;
}

export function forget() {
  rates.forget();
  last = null;
}

/** Sets up the search. Calls `changed` when other client rules must be fetched. */
export function start(changed) {
  $("clients-search").addEventListener("input", (event) => {
    search = event.target.value.trim();
    changed();
  });
  $("clients-all").addEventListener("click", () => {
    limit = MAX_ROWS;
    changed();
  });
}

export function show({ clients, total, at }) {
  rates.update(at, clients.map((one) => [one.client, one.connections]));
  text($("clients-total"), search ? `${as.plural(total, "match", "matches")}` : as.plural(total, "rule"));
  attribute($("clients-total"), "data-value", total);
  empty($("no-clients"), clients.length === 0, search ? "No client rule matches." : "No client rules: every client is refused.");
  $("clients").closest(".scroll").hidden = clients.length === 0;
  const more = $("clients-all");
  more.hidden = clients.length >= total || limit >= MAX_ROWS;
  text(more, total > MAX_ROWS ? `Show ${as.count(MAX_ROWS)} of ${as.count(total)}` : `Show all ${as.count(total)}`);
  const most = clients.reduce((most, one) => Math.max(most, one.active), 1);
  keyed($("clients"), clients.map((client) => ({ client, most })), ({ client }) => client.client, row);
}

function row({ client }) {
  const [sub, shadow] = [el("span", "sub"), el("span", "badge warn", "shadow")];
  const name = el("span", "name", client.client, " ", shadow);
  const heading = el("th", "", name, sub);
  heading.scope = "row";
  const { outer, inner } = bar();
  const active = el("b");
  const [rate, refusedCell] = [el("td", "num"), el("td", "num")];
  const [failed, total] = [el("td", "num more"), el("td", "num more")];
  const [bounds, reach] = [el("span", "sub long"), el("span", "name")];
  const [limits, allow] = [el("td", "more", bounds), el("td", "more", reach)];
  const meter = el("td", "", el("span", "gauge", active, outer));
  const element = el("tr", "", heading, meter, rate, refusedCell, failed, total, limits, allow);
  element.dataset.client = client.client;
  return {
    element,
    update: ({ client: now, most }) => {
      shadow.hidden = now.mode !== "shadow";
      const match = now.match.join(", ");
      text(sub, now.expires ? `${match} · until ${as.date(now.expires)}` : match);
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
