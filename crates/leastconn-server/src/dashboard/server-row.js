// A row of the table of servers, and the dialog that sets the state of a server.

import * as control from "./control.js";
import { attribute, badge, bar, el, fill, text } from "./dom.js";
import * as as from "./format.js";
import { healthOf, stateOf } from "./notice.js";
import { sparkline } from "./sparkline.js";

const KINDS = { up: "good", unchecked: "", failing: "bad", down: "bad", ejected: "bad", drain: "warn", maint: "warn" };
const STILL_USED = "Still used, because max_ejected allows no further ejection";

/** Creates a row. `update` takes the server, the number of connections of a full bar, the
 * balancer's time, and the rate of new connections. */
export function serverRow({ server }) {
  const name = `${server.upstream}/${server.server}`;
  const sub = el("span", "sub");
  const outage = el("span", "sub long outage");
  const heading = el("th", "", el("div", "names", el("span", "name", server.server), sub), outage);
  heading.scope = "row";
  heading.title = server.server;
  const [state, note] = [el("span", "badge"), el("span", "sub slow")];
  const { outer, inner } = bar();
  const [active, limit] = [el("b"), el("small")];
  const spark = sparkline();
  const [rateCell, total, failed] = [el("td", "num more"), el("td", "num more"), el("td", "num more")];
  const change = el("button", "small", "Set …");
  change.type = "button";
  change.setAttribute("aria-haspopup", "dialog");
  change.setAttribute("aria-label", `Set the state of ${name}`);
  let latest = server;
  change.addEventListener("click", () => control.open(stateDialog(() => latest)));
  const element = el(
    "tr",
    "",
    heading,
    el("td", "", state, note),
    el("td", "", el("span", "gauge", el("span", "amount", active, limit), outer)),
    el("td", "roomy", spark.element),
    rateCell,
    total,
    failed,
    el("td", "num", change),
  );
  element.dataset.server = name;
  return {
    element,
    update: ({ server: now, scale, time, rate }) => {
      latest = now;
      control.refresh(name);
      const word = stateOf(now);
      badge(state, word, KINDS[word] ?? "bad");
      const failure = now.outage ?? now.kept_in_use;
      outage.hidden = !failure;
      if (failure) text(outage, `${healthOf(now)} since ${as.when(failure.since, time)}: ${failure.reason}${now.outage ? "" : `. ${STILL_USED}`}`);
      attribute(outage, "title", failure?.reason);
      const extra = noteOf(now, word);
      note.hidden = !extra;
      text(note, extra);
      attribute(note, "title", now.slow_start && slowStart(now.slow_start));
      text(sub, [now.address, ...detailsOf(now)].filter(Boolean).join(" · "));
      attribute(sub, "title", sub.textContent);
      text(active, as.count(now.active));
      attribute(active, "data-value", now.active);
      text(limit, now.max_conns ? `/${as.count(now.max_conns)}` : "");
      fill(inner, now.active / (now.max_conns ?? scale));
      attribute(outer, "title", now.max_conns ? `Full bar: max_conns, ${as.count(now.max_conns)}` : `Full bar: ${as.count(scale)}, the most connections of a server without max_conns`);
      outer.classList.toggle("limited", Boolean(now.max_conns));
      outer.classList.toggle("full", Boolean(now.max_conns) && now.active >= now.max_conns);
      spark.update(now.history, now.max_conns ?? scale);
      element.classList.toggle("off", now.state !== "ready" || (now.agent?.state ?? "ready") !== "ready" || now.effective_weight === 0);
      text(rateCell, as.rate(rate));
      text(total, as.count(now.connections));
      attribute(total, "data-value", now.connections);
      text(failed, as.count(now.connect_failures));
    },
  };
}

/** The progress of a slow start or of a drain. */
function noteOf({ slow_start: slow, active }, word) {
  if (slow) return `slow ${as.percent(slow.share)}`;
  if (word !== "drain" && word !== "maint") return "";
  return active > 0 ? `${as.count(active)} left` : "empty";
}

function detailsOf(now) {
  return [
    weightText(now),
    now.zone && `zone ${now.zone}`,
    now.agent && now.agent.state !== "ready" && `${now.agent.state} by its agent`,
    now.backup && "backup",
    now.early_failures && `${as.count(now.early_failures)} closed immediately`,
    now.elsewhere && `${as.count(now.elsewhere)} open on other balancers`,
  ];
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
