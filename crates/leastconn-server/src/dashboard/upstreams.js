// Upstreams and their servers.

import * as control from "./control.js";
import { $, attribute, badge, bar, el, empty, fill, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { stateOf } from "./notice.js";
import { Rates } from "./rates.js";

const SHOWN = 40;
const MANY = 100;
const rates = new Rates();
/** Whether all servers are shown, instead of the most important ones of each upstream. */
let all = false;
let changed = () => {};

export const query = () => (all ? {} : { limit: SHOWN });

export const forget = () => rates.forget();

/** `onChange` is called when other servers must be fetched. */
export function start(onChange) {
  changed = onChange;
}

export function show(status, servers, sources, now) {
  rates.update(now, servers.map((one) => [key(one), one.connections]));
  const byUpstream = new Map(status.upstreams.map((one) => [one.name, []]));
  for (const server of servers) byUpstream.get(server.upstream)?.push(server);
  const sourcesOf = (name) => sources.filter((one) => one.upstream === name);
  empty($("no-upstreams"), status.upstreams.length === 0, "None.");
  const items = status.upstreams.map((summary) => ({ summary, servers: byUpstream.get(summary.name), sources: sourcesOf(summary.name), time: status.time }));
  keyed($("upstreams"), items, ({ summary }) => summary.name, card);
}

const key = (server) => `${server.upstream}/${server.server}`;

/** A source of servers, with the age of its last answer and the error of its last look-up. */
function sourceItem() {
  const element = el("li");
  return {
    element,
    update: (source) => {
      const age = as.span(source.age_seconds * 1000);
      const answer = source.answered ? `answered ${age} ago` : `no answer for ${age}`;
      text(element, [source.source, as.plural(source.servers, "server"), answer, source.error].filter(Boolean).join(" · "));
    },
  };
}

/** The waiting connections of an upstream with a queue. */
function queue({ queued, queue_size, longest_wait_ms }) {
  if (!queued) return queue_size ? "none waiting" : "";
  return `${as.count(queued)} of ${as.count(queue_size)} waiting, longest ${(longest_wait_ms / 1000).toFixed(1)} s`;
}

const COLUMNS = [
  ["Server", ""],
  ["State", "w-state"],
  ["Open", "w-meter"],
  ["New/s", "num more w-num"],
  ["Connections", "num more w-wide"],
  ["Failed", "num more w-num"],
  ["Change", "w-button"],
];

function card({ summary: { name } }) {
  const heading = el("h3", "", name);
  heading.title = name;
  const [up, sum] = [el("span", "badge"), el("span", "quiet last")];
  const rows = el("tbody");
  const head = COLUMNS.map(([word, className]) => {
    const cell = el("th", className, word === "Change" ? el("span", "unseen", word) : word);
    cell.scope = "col";
    return cell;
  });
  const caption = el("caption", "unseen", `Servers of ${name}`);
  const table = el("table", "", caption, el("thead", "", el("tr", "", ...head)), rows);
  const more = el("button", "all");
  more.type = "button";
  more.addEventListener("click", () => {
    all = true;
    changed();
  });
  const found = el("ul", "sources quiet");
  const element = el("section", "card", el("div", "head", heading, up, sum), found, table, more);
  element.setAttribute("aria-label", `Upstream ${name}`);
  return {
    element,
    update: ({ summary, servers, sources, time }) => {
      found.hidden = sources.length === 0;
      keyed(found, sources, (one) => one.source, sourceItem);
      const kind = summary.available === 0 ? "bad" : summary.available < summary.servers ? "warn" : "good";
      badge(up, `${as.count(summary.available)} of ${as.count(summary.servers)} available`, kind);
      text(sum, [summary.balance, `${as.count(summary.active)} open`, queue(summary)].filter(Boolean).join(" · "));
      more.hidden = all || servers.length >= summary.servers;
      text(more, `Show all ${as.count(summary.servers)} servers`);
      // Bars are relative to the server with the most connections.
      const most = servers.reduce((most, one) => Math.max(most, one.active), 1);
      // Transitions of very many bars would block the browser.
      rows.classList.toggle("many", servers.length > MANY);
      keyed(rows, servers.map((server) => ({ server, most, time })), (item) => key(item.server), row);
    },
  };
}

const KINDS = { up: "good", down: "bad", ejected: "bad", drain: "warn", maint: "warn" };

function row({ server }) {
  const sub = el("span", "sub");
  const outage = el("span", "sub long outage");
  const heading = el("th", "", el("span", "name", server.server), sub, outage);
  heading.scope = "row";
  heading.title = server.server;
  const [state, slow] = [el("span", "badge"), el("span", "sub slow")];
  const { outer, inner } = bar();
  const active = el("b");
  const [rate, total, failed] = [el("td", "num more"), el("td", "num more"), el("td", "num more")];
  const change = el("button", "small", "Set …");
  change.type = "button";
  change.setAttribute("aria-haspopup", "dialog");
  change.setAttribute("aria-label", `Set the state of ${key(server)}`);
  let latest = server;
  change.addEventListener("click", () => control.open(stateDialog(() => latest)));
  const element = el(
    "tr",
    "",
    heading,
    el("td", "", state, slow),
    el("td", "", el("span", "gauge", active, outer)),
    rate,
    total,
    failed,
    el("td", "num", change),
  );
  element.dataset.server = key(server);
  return {
    element,
    update: ({ server: now, most, time }) => {
      latest = now;
      control.refresh(key(now));
      const word = stateOf(now);
      badge(state, word, KINDS[word] ?? "bad");
      outage.hidden = !now.outage;
      if (now.outage) text(outage, `${now.health} since ${as.when(now.outage.since, time)}: ${now.outage.reason}`);
      slow.hidden = !now.slow_start;
      if (now.slow_start) {
        text(slow, `slow ${as.percent(now.slow_start.share)}`);
        attribute(slow, "title", slowStart(now.slow_start));
      }
      const extras = [weightText(now), now.zone && `zone ${now.zone}`, now.agent && now.agent.state !== "ready" && `${now.agent.state} by its agent`, now.backup && "backup", now.max_conns && `at most ${as.count(now.max_conns)}`, now.early_failures && `${as.count(now.early_failures)} closed immediately`, now.elsewhere && `${as.count(now.elsewhere)} open on other balancers`].filter(Boolean);
      text(sub, [now.address, ...extras].join(" · "));
      attribute(sub, "title", sub.textContent);
      text(active, as.count(now.active));
      attribute(active, "data-value", now.active);
      fill(inner, now.active / (now.max_conns ?? most));
      outer.classList.toggle("full", Boolean(now.max_conns) && now.active >= now.max_conns);
      element.classList.toggle("off", now.state !== "ready" || (now.agent?.state ?? "ready") !== "ready" || now.effective_weight === 0);
      text(rate, as.rate(rates.of(key(now))));
      text(total, as.count(now.connections));
      attribute(total, "data-value", now.connections);
      text(failed, as.count(now.connect_failures));
    },
  };
}

const weightText = ({ weight, effective_weight: effective }) =>
  effective === undefined ? weight !== 1 && `weight ${weight}` : `weight ${effective} of ${weight}`;

const slowStart = ({ share, remaining_seconds: left }) =>
  `Slow start: it gets at most ${as.percent(share)} of its share of new connections, and its full share in ${as.span(left * 1000)}.`;

const STATES = [
  ["ready", "Ready", "New connections are sent to this server."],
  ["drain", "Drain", "No new connections. Open connections continue."],
  ["maint", "Maint", "No new connections. Open connections are closed after a grace period, and its health is not checked."],
];

/** The dialog that sets the state of a server. */
function stateDialog(now) {
  const { upstream, server } = now();
  const name = `${upstream}/${server}`;
  return {
    key: name,
    title: name,
    describe: () => {
      const slow = now().slow_start;
      return `State: ${stateOf(now())}, with ${as.plural(now().active, "open connection")}. ${slow ? slowStart(slow) : ""}`;
    },
    choices: STATES.map(([state, label, description]) => ({
      label,
      description,
      path: `servers/${encodeURIComponent(upstream)}/${encodeURIComponent(server)}/state`,
      body: { state },
      done: `${name} is set to ${state}.`,
      command: [state, name],
      current: () => now().state === state,
    })),
  };
}
