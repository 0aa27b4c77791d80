// Polls the API every two seconds while the page is visible, and updates the page.

import { get } from "./api.js";
import { certificates } from "./certificates.js";
import * as charts from "./charts.js";
import * as clients from "./clients.js";
import * as connections from "./connections.js";
import * as control from "./control.js";
import * as fleet from "./fleet.js";
import { $, attribute, badge, el, text } from "./dom.js";
import * as as from "./format.js";
import { countDown, head, title } from "./head.js";
import { announce, watch } from "./notice.js";
import * as overview from "./overview.js";
import * as refusals from "./refusals.js";
import * as upstreams from "./upstreams.js";

/** Polling interval, milliseconds. */
const INTERVAL = 2000;
/** Delay of a search after the last key press, milliseconds. */
const SEARCH_DELAY = 250;
/** Age from which data is marked as stale, milliseconds. */
const STALE_AFTER = 5 * INTERVAL;
/** Clock difference from which a note is shown, milliseconds. */
const CLOCK_SKEW = 10_000;

let timer = null;
let searchTimer = null;
let polling = false;
let pollAgain = false;
/** The last status and its arrival by the browser's clock; initially the load time. */
let last = { status: null, at: Date.now() };
let lost = false;
/** Whether the next request asks for the whole history instead of the newest samples. */
let fullHistory = true;

/** Sends all requests of a round. Shows their responses only if all requests succeed. */
async function poll() {
  clearTimeout(timer);
  if (polling) {
    pollAgain = true;
    return;
  }
  polling = true;
  let answers = null;
  try {
    answers = await Promise.all([
      get("status"),
      get("servers", upstreams.query()),
      clients.fetchRules(),
      get("connections", connections.query()),
      get("history", fullHistory ? {} : { last: 5 }),
      get("refusals", refusals.query()),
      fleet.fetchFleet(last.status),
    ]);
  } catch (error) {
    failed(error);
  }
  // This is outside the `try` above, because an exception in rendering is not a lost connection.
  try {
    if (answers) show(...answers);
  } finally {
    polling = false;
    next();
  }
}

function show(status, { servers, sources = [] }, rules, open, history, refused, members) {
  const before = last.status;
  // The fleet is requested from the second round on.
  if (status.fleet && !before) pollAgain = true;
  last = { status, at: Date.now() };
  if (lost) announce("Connection to the balancer restored.");
  lost = false;
  stale(false);
  $("lost").hidden = true;
  if (before && before.started !== status.started) {
    // The process was restarted, so its counters are not comparable with the old ones.
    for (const part of [charts, clients, upstreams]) part.forget();
    pollAgain ||= !fullHistory;
    fullHistory = true;
  } else {
    fullHistory = false;
  }
  charts.add(history.samples);
  head(status);
  overview.figures(status, history.samples.at(-1));
  overview.outcomes(status, refused.latest);
  overview.listeners(status);
  certificates(status);
  control.allow(status);
  upstreams.show(status, servers, sources, performance.now());
  clients.show(rules, status.time);
  connections.show(open);
  refusals.show(refused);
  fleet.show(members, status);
  title(status);
  watch(status, servers);
  text($("pulse"), `live · ${as.clock(status.time)}`);
  clocks(Date.parse(status.time) - last.at);
  document.body.classList.remove("loading");
  // Read by tests.
  attribute(document.body, "data-shown", status.time);
}

/** Shows a note if the balancer's clock, which all times on the page use, differs from the
 * browser's. */
function clocks(ahead) {
  const apart = Math.abs(ahead) > CLOCK_SKEW;
  $("clocks").hidden = !apart;
  if (apart) text($("clocks"), `times are those of the balancer, whose clock is ${as.span(Math.abs(ahead))} ${ahead > 0 ? "ahead of" : "behind"} this browser’s`);
}

function next() {
  if (document.hidden) return;
  if (pollAgain) {
    pollAgain = false;
    poll();
  } else {
    timer = setTimeout(poll, INTERVAL);
  }
}

function stale(yes) {
  document.body.classList.toggle("stale", yes);
}

/** Shows that the balancer does not respond, and for how long. */
function failed(error) {
  lost = true;
  // Samples are missing from now on, so fetch the whole history next time.
  fullHistory = true;
  stale(true);
  text($("pulse"), "no response");
  badge($("phase"), "no response", "bad");
  document.title = ["no response", last.status?.host, "leastconn"].filter(Boolean).join(" · ");
  const banner = $("lost");
  const age = as.span(Math.max(1000, Math.round((Date.now() - last.at) / 1000) * 1000)).replace(".0", "");
  const since = last.status ? ` since ${as.when(last.status.time, Date.now())}` : "";
  let reason = "";
  if (error.status) reason = `: ${error.message}`;
  else if (error.name === "TimeoutError") reason = ": request timed out";
  // Screen readers announce the alert once; the changing duration is hidden from them.
  if (banner.hidden) {
    const duration = el("span");
    duration.setAttribute("aria-hidden", "true");
    banner.replaceChildren(`No response from the balancer${since}`, duration, `${reason}.`, last.status ? " The data below is from that time." : "", " Retrying every two seconds.");
  }
  text(banner.querySelector("span"), ` (${age})`);
  banner.hidden = false;
}

function changed() {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(poll, SEARCH_DELAY);
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
      // Storage is disabled: the choice lasts until the page is reloaded.
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
setInterval(countDown, 1000);
new ResizeObserver(charts.resize).observe($("main"));
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) return;
  // The page may have been hidden for a long time, so fetch the whole history.
  fullHistory = true;
  if (Date.now() - last.at > STALE_AFTER) {
    stale(true);
    text($("pulse"), "loading …");
  }
  poll();
});
poll();
