// Client rules with what their clients do: those with the most open connections first.

import { get } from "./api.js";
import { $, attribute, bar, el, empty, fill, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { Rates } from "./rates.js";

const SHOWN = 12;
/** More than this nobody reads through; there is a search. */
const MOST = 250;
const rates = new Rates();
/** To put more rules than this in order costs the balancer something: not every time. */
const MANY = 5000;
const SELDOM = 10_000;
let limit = SHOWN;
let search = "";
let last = null;

/** The rules, as they are or were a moment ago. */
export async function ask() {
  const asked = JSON.stringify([limit, search]);
  const now = performance.now();
  if (last?.asked === asked && last.total > MANY && now - last.at < SELDOM) return last;
  const answer = await get("clients", { sort: "active", limit, search });
  last = { ...answer, asked, at: now };
  return last;
}

export function forget() {
  rates.forget();
  last = null;
}

/** `changed` is called when other clients are asked for. */
export function start(changed) {
  $("clients-search").addEventListener("input", (event) => {
    search = event.target.value.trim();
    changed();
  });
  $("clients-all").addEventListener("click", () => {
    limit = MOST;
    changed();
  });
}

export function show({ clients, total, at }) {
  rates.update(at, clients.map((one) => [one.client, one.connections]));
  text($("clients-total"), search ? `${as.plural(total, "match", "matches")}` : as.plural(total, "rule"));
  attribute($("clients-total"), "data-value", total);
  empty($("no-clients"), clients.length === 0, search ? "No client rule has this in its name." : "No client rule: nobody is let in.");
  $("clients").closest(".scroll").hidden = clients.length === 0;
  const more = $("clients-all");
  more.hidden = clients.length >= total || limit >= MOST;
  text(more, total > MOST ? `Show ${as.count(MOST)} of ${as.count(total)}` : `Show all ${as.count(total)}`);
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
  const [rate, no] = [el("td", "num"), el("td", "num")];
  const [failed, total] = [el("td", "num more"), el("td", "num more")];
  const [bounds, reach] = [el("span", "sub long"), el("span", "name")];
  const [limits, allow] = [el("td", "more", bounds), el("td", "more", reach)];
  const meter = el("td", "", el("span", "gauge", active, outer));
  const element = el("tr", "", heading, meter, rate, no, failed, total, limits, allow);
  element.dataset.client = client.client;
  return {
    element,
    update: ({ client: now, most }) => {
      shadow.hidden = now.mode !== "shadow";
      const asks = now.match.join(", ");
      text(sub, now.expires ? `${asks} · until ${as.date(now.expires)}` : asks);
      attribute(heading, "title", `${now.client}: ${sub.textContent}`);
      text(active, as.count(now.active));
      attribute(active, "data-value", now.active);
      fill(inner, now.active / most);
      text(rate, as.rate(rates.of(now.client)));
      for (const [cell, count] of [[no, now.refused], [failed, now.failed]]) {
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
  if (most) parts.push(`${as.count(most)} at once`);
  return parts.join(" · ") || "none";
}
