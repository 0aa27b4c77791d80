// Asks every two seconds while somebody looks, and shows what was answered.

import { get } from "./api.js";
import * as charts from "./charts.js";
import * as clients from "./clients.js";
import * as connections from "./connections.js";
import * as control from "./control.js";
import { $, attribute, badge, el, text } from "./dom.js";
import * as as from "./format.js";
import { say, watch } from "./notice.js";
import * as overview from "./overview.js";
import * as refusals from "./refusals.js";
import * as upstreams from "./upstreams.js";

const EVERY = 2000;
/** After the last key press, before a search is asked for. */
const SETTLED = 250;
/** What is older than this is not shown as if it were so now. */
const OLD = 5 * EVERY;
/** Clocks that differ by more than this, in milliseconds, are worth a word. */
const SKEW = 10_000;

let timer = null;
let settling = null;
let asking = false;
let again = false;
/** What it answered last, and when by the clock here; at first, when we began to ask. */
let last = { status: null, at: Date.now() };
let lost = false;
/** Whether all of the history is wanted, or the newest of it. */
let whole = true;

/** One round: everything is asked for at once and shown at once, or nothing is. */
async function poll() {
  clearTimeout(timer);
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  let answers = null;
  try {
    answers = await Promise.all([
      get("status"),
      get("servers", upstreams.query()),
      clients.ask(),
      get("connections", connections.query()),
      get("history", whole ? {} : { last: 5 }),
      get("refusals", refusals.query()),
    ]);
  } catch (error) {
    failed(error);
  }
  // A fault in showing them is ours: it is not taken for a balancer that is gone.
  try {
    if (answers) show(...answers);
  } finally {
    asking = false;
    next();
  }
}

function show(status, { servers }, rules, open, history, turned) {
  const before = last.status;
  last = { status, at: Date.now() };
  if (lost) say("The balancer answers again.");
  lost = false;
  stale(false);
  $("lost").hidden = true;
  if (before && before.started !== status.started) {
    // Another process: what was counted before has nothing to do with it.
    for (const part of [charts, clients, upstreams]) part.forget();
    again ||= !whole;
    whole = true;
  } else {
    whole = false;
  }
  charts.add(history.samples);
  overview.head(status);
  overview.figures(status, history.samples.at(-1));
  overview.outcomes(status);
  overview.listeners(status);
  overview.certificates(status);
  control.allow(status);
  upstreams.show(status, servers, performance.now());
  clients.show(rules);
  connections.show(open);
  refusals.show(turned);
  watch(status, servers);
  text($("pulse"), `live · ${as.clock(status.time)}`);
  clocks(Date.parse(status.time) - last.at);
  document.body.classList.remove("loading");
  // Which answer is shown, for tests.
  attribute(document.body, "data-shown", status.time);
}

/** All times on the page are by the balancer's clock. */
function clocks(ahead) {
  const apart = Math.abs(ahead) > SKEW;
  $("clocks").hidden = !apart;
  if (apart) text($("clocks"), `times are the balancer’s, whose clock is ${as.span(Math.abs(ahead))} ${ahead > 0 ? "ahead of" : "behind"} the one here`);
}

function next() {
  if (document.hidden) return;
  if (again) {
    again = false;
    poll();
  } else {
    timer = setTimeout(poll, EVERY);
  }
}

function stale(yes) {
  document.body.classList.toggle("stale", yes);
}

/** It does not answer; since when, counted while it lasts. */
function failed(error) {
  lost = true;
  // The curves have a gap: more than the newest is missing.
  whole = true;
  stale(true);
  text($("pulse"), "no answer");
  badge($("phase"), "no answer", "bad");
  document.title = "no answer · leastconn";
  const banner = $("lost");
  const age = as.span(Math.max(1000, Math.round((Date.now() - last.at) / 1000) * 1000)).replace(".0", "");
  const since = last.status ? ` since ${as.when(last.status.time, Date.now())}` : "";
  let why = "";
  if (error.status) why = `: ${error.message}`;
  else if (error.name === "TimeoutError") why = ": it takes connections, and says nothing";
  // An alert is read out when it appears; the seconds that follow are not.
  if (banner.hidden) {
    const counted = el("span");
    counted.setAttribute("aria-hidden", "true");
    banner.replaceChildren(`No answer from the balancer${since}`, counted, `${why}.`, last.status ? " What is below was so then." : "", " Asking again every two seconds.");
  }
  text(banner.querySelector("span"), ` (${age})`);
  banner.hidden = false;
}

function changed() {
  clearTimeout(settling);
  settling = setTimeout(poll, SETTLED);
}

const THEMES = ["system", "light", "dark"];

function theme() {
  const button = $("theme");
  const shown = () => text(button, `Theme: ${document.documentElement.dataset.theme ?? "system"}`);
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const wanted = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
    if (wanted === "system") delete root.dataset.theme;
    else root.dataset.theme = wanted;
    try {
      localStorage.setItem("leastconn.theme", wanted);
    } catch {
      // Storage is forbidden: it lasts as long as the page.
    }
    shown();
    charts.draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", charts.draw);
  shown();
}

theme();
upstreams.start(poll);
clients.start(changed);
connections.start(changed);
refusals.start(poll);
control.start(poll);
charts.draw();
new ResizeObserver(charts.resize).observe($("main"));
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) return;
  // Long ago, perhaps: all that is kept, rather than the newest few.
  whole = true;
  if (Date.now() - last.at > OLD) {
    stale(true);
    text($("pulse"), "asking …");
  }
  poll();
});
poll();
