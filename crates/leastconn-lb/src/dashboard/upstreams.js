// Upstreams, and their servers with what each has to do.

import * as control from "./control.js";
import { $, attribute, bar, el, empty, fill, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { stateOf } from "./notice.js";
import { badge } from "./overview.js";
import { Rates } from "./rates.js";

const SHOWN = 40;
const rates = new Rates();
/** Upstreams of which every server is shown. */
const whole = new Set();

export const forget = () => rates.forget();

export function show(status, servers, now) {
  rates.update(now, servers.map((one) => [key(one), one.connections]));
  const byUpstream = new Map(status.upstreams.map((one) => [one.name, []]));
  for (const server of servers) byUpstream.get(server.upstream)?.push(server);
  empty($("no-upstreams"), status.upstreams.length === 0, "None.");
  keyed($("upstreams"), status.upstreams, (one) => one.name, card);
  for (const one of status.upstreams) {
    const { update } = $("upstreams").rowsByKey.get(one.name);
    update(one, byUpstream.get(one.name));
  }
}

const key = (server) => `${server.upstream}/${server.server}`;

function card({ name }) {
  const heading = el("h3", "", name);
  heading.title = name;
  const [up, sum] = [el("span", "badge"), el("span", "quiet last")];
  const rows = el("tbody");
  const head = ["Server", "State", "In flight", "New/s", "Connections", "Failed", "Change"].map((word, at) => {
    const cell = el("th", ["", "w-state", "w-meter", "num more w-num", "num more w-wide", "num more w-num", "w-button"][at]);
    cell.scope = "col";
    if (word === "Change") cell.append(el("span", "unseen", word));
    else cell.append(word);
    return cell;
  });
  const caption = el("caption", "unseen", `Servers of ${name}`);
  const table = el("table", "", caption, el("thead", "", el("tr", "", ...head)), rows);
  const more = el("button", "all");
  more.type = "button";
  let latest = [];
  const draw = () => {
    const shown = whole.has(name) ? latest : worst(latest);
    more.hidden = shown.length === latest.length;
    text(more, `Show all ${as.count(latest.length)} servers`);
    // Against the largest here: equal shares are bars of equal length.
    const most = latest.reduce((most, one) => Math.max(most, one.active), 1);
    keyed(rows, shown.map((server) => ({ server, most })), (item) => key(item.server), row);
  };
  more.addEventListener("click", () => {
    whole.add(name);
    draw();
  });
  const element = el("section", "card", el("div", "head", heading, up, sum), table, more);
  element.setAttribute("aria-label", `Upstream ${name}`);
  return {
    element,
    update: (summary, servers) => {
      if (!servers) return;
      latest = servers;
      const kind = summary.available === 0 ? "bad" : summary.available < summary.servers ? "warn" : "good";
      badge(up, `${as.count(summary.available)} of ${as.count(summary.servers)} available`, kind);
      text(sum, `${summary.balance} · ${as.count(summary.active)} in flight`);
      draw();
    },
  };
}

/** Of very many servers, those that one would look for: what is wrong first, then
 * what is busy. */
function worst(servers) {
  if (servers.length <= SHOWN) return servers;
  const rank = (one) => (stateOf(one) === "up" ? 0 : 1);
  return [...servers].sort((a, b) => rank(b) - rank(a) || b.active - a.active).slice(0, SHOWN);
}

const KINDS = { up: "good", down: "bad", ejected: "bad", drain: "warn", maint: "warn" };

function row({ server }) {
  const sub = el("span", "sub");
  const heading = el("th", "", el("span", "name", server.server), sub);
  heading.scope = "row";
  heading.title = server.server;
  const state = el("span", "badge");
  const { outer, inner } = bar();
  const active = el("b");
  const [rate, total, failed] = [el("td", "num more"), el("td", "num more"), el("td", "num more")];
  const change = el("button", "small", "Set …");
  change.type = "button";
  change.setAttribute("aria-haspopup", "dialog");
  change.setAttribute("aria-label", `Set the state of ${key(server)}`);
  let latest = server;
  change.addEventListener("click", () => control.open(latest));
  const element = el(
    "tr",
    "",
    heading,
    el("td", "", state),
    el("td", "", el("span", "gauge", active, outer)),
    rate,
    total,
    failed,
    el("td", "num", change),
  );
  element.dataset.server = key(server);
  return {
    element,
    update: ({ server: now, most }) => {
      latest = now;
      control.refresh(now);
      const word = stateOf(now);
      badge(state, word, KINDS[word] ?? "bad");
      const extras = [now.weight !== 1 && `weight ${now.weight}`, now.backup && "backup", now.max_conns && `at most ${as.count(now.max_conns)}`].filter(Boolean);
      text(sub, [now.address, ...extras].join(" · "));
      attribute(sub, "title", sub.textContent);
      text(active, as.count(now.active));
      attribute(active, "data-value", now.active);
      fill(inner, now.active / (now.max_conns ?? most));
      outer.classList.toggle("full", Boolean(now.max_conns) && now.active >= now.max_conns);
      element.classList.toggle("off", now.state !== "ready");
      text(rate, as.rate(rates.of(key(now))));
      text(total, as.count(now.connections));
      attribute(total, "data-value", now.connections);
      text(failed, as.count(now.connect_failures));
    },
  };
}
