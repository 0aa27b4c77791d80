// Asks every two seconds while somebody looks, and shows what was answered.

import { get } from "./api.js";
import * as charts from "./charts.js";
import * as clients from "./clients.js";
import * as connections from "./connections.js";
import * as control from "./control.js";
import { $, attribute, text } from "./dom.js";
import * as as from "./format.js";
import { say, watch } from "./notice.js";
import * as overview from "./overview.js";
import * as upstreams from "./upstreams.js";

const EVERY = 2000;
/** After the last key press, before a search is asked for. */
const SETTLED = 250;

let timer = null;
let settling = null;
let asking = false;
let again = false;
/** When it answered last, and when the process that did was started. */
let answered = performance.now();
let started = null;
let lost = false;
let all = true;

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
      get("servers"),
      clients.ask(),
      get("connections", connections.query()),
      get("history", all ? {} : { last: 5 }),
    ]);
  } catch (error) {
    failed(error);
  }
  // A fault in showing them is ours: it is not taken for a balancer that is gone.
  try {
    if (answers) {
      found();
      show(...answers);
    }
  } finally {
    asking = false;
    next();
  }
}

function show(status, { servers }, rules, open, history) {
  const now = performance.now();
  if (started !== status.started) {
    // Another process: what was counted before has nothing to do with it.
    for (const part of [charts, clients, upstreams]) part.forget();
    started = status.started;
    if (!all) again = all = true;
  }
  charts.add(history.samples);
  if (!again) all = false;
  overview.head(status);
  overview.figures(status, history.samples.at(-1));
  overview.outcomes(status);
  overview.listeners(status);
  overview.certificates(status);
  upstreams.show(status, servers, now);
  clients.show(rules);
  connections.show(open);
  watch(status, servers);
  text($("pulse"), `live · ${as.clock(status.time)}`);
  document.body.classList.remove("loading");
  // Which answer is shown, for tests.
  attribute(document.body, "data-shown", status.time);
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

function found() {
  answered = performance.now();
  if (!lost) return;
  lost = false;
  $("lost").hidden = true;
  document.body.classList.remove("stale");
  say("The balancer answers again.");
}

function failed(error) {
  if (!lost) answered = Math.min(answered, performance.now());
  lost = true;
  // The curves have a gap: more than the newest is missing.
  all = true;
  document.body.classList.add("stale");
  text($("pulse"), "no answer");
  tell(error);
}

/** How long it has been, counted while it lasts. */
function tell(error) {
  if (!lost) return;
  const banner = $("lost");
  const since = as.span(Math.max(1000, Math.round((performance.now() - answered) / 1000) * 1000)).replace(".0", "");
  const why = error?.status ? ` (${error.message})` : "";
  // An alert is read out when it appears; the seconds that follow are not.
  if (banner.hidden) {
    banner.replaceChildren("No answer from the balancer", why);
    banner.append(document.createElement("span"), "; asking again every two seconds.");
    banner.lastElementChild.setAttribute("aria-hidden", "true");
  }
  text(banner.querySelector("span"), ` since ${since}`);
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
clients.start(changed);
connections.start(changed);
control.start(poll);
charts.draw();
new ResizeObserver(charts.resize).observe($("main"));
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) return;
  // Long ago, perhaps: all that is kept, rather than the newest few.
  all = true;
  answered = performance.now();
  poll();
});
poll();
