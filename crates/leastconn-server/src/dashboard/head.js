// The page header, and the banners that show trouble before anything else.

import { $, attribute, badge, lines, text } from "./dom.js";
import * as as from "./format.js";

/** Servers and upstreams that a banner lists. */
const SHOWN = 6;
const SET_FOR = { here: " on this balancer only", fleet: " for the fleet" };
const PHASES = { starting: "warn", ready: "good", draining: "warn" };

/** While draining: the end by the browser's clock, and the open connections. */
let drain = null;

export function head(status) {
  const { configuration } = status;
  text($("host"), status.host);
  text($("version"), status.version);
  badge($("phase"), status.phase, PHASES[status.phase]);
  text($("uptime"), as.span(status.uptime_seconds * 1000));
  // CSS truncates the start of the path. The left-to-right mark keeps the leading slash
  // in place.
  text($("file"), `\u200e${configuration.file}`);
  attribute($("file"), "title", configuration.file);
  text($("applied"), as.moment(configuration.applied));
  const reload = configuration.last_reload;
  badge($("reload"), reload?.outcome ?? "none", { applied: "good", rejected: "bad" }[reload?.outcome]);
  text($("reload-time"), reload ? as.when(reload.time, status.time) : "");
  $("rejected").hidden = reload?.outcome !== "rejected";
  lines($("rejected-reasons"), reload?.reasons ?? []);
  const { blocked } = configuration;
  $("blocked").hidden = !blocked;
  if (blocked) text($("blocked"), `Reading ${blocked.file} has been blocked since ${as.when(blocked.since, status.time)}; changes to it are not applied.`);
  const upgrade = status.failed_upgrade;
  $("upgrade").hidden = !upgrade;
  if (upgrade) text($("upgrade"), `The upgrade at ${as.when(upgrade.time, status.time)} failed, this process continues: ${upgrade.reason}`);
  const old = status.old_processes ?? [];
  $("old-processes").hidden = old.length === 0;
  text(
    $("old-processes"),
    old.map(({ pid, connections }) => `Process ${pid} was replaced by an upgrade and still serves ${as.plural(connections, "connection")}, which this page does not show.`).join(" "),
  );
  $("overrides").hidden = configuration.deviations.length === 0;
  lines(
    $("override-list"),
    configuration.deviations.map(
      ({ what, is, configured, since, set_for: setFor }) =>
        `${what} is ${is}${since ? ` since ${as.when(since, status.time)}` : ""}${SET_FOR[setFor] ?? ""}; configured: ${configured}`,
    ),
  );
  const blocks = configuration.blocks ?? 0;
  $("blocks").hidden = blocks === 0;
  text($("blocks"), `${as.plural(blocks, "client is", "clients are")} blocked by operators: ctl blocks lists them.`);
  outages(status);
  full(status);
  limits(status);
  draining(status);
  const { log, sandbox } = status;
  const process = [
    `process ${status.pid}`,
    as.plural(status.workers, "worker"),
    `started ${as.moment(status.started)}`,
    `log level ${log.level}`,
    log.lines_lost && `${as.plural(log.lines_lost, "access log line")} lost`,
    `sandbox ${sandbox.state}${sandbox.detail ? ` (${sandbox.detail})` : ""}`,
  ];
  text($("process"), process.filter(Boolean).join(" · "));
}

/** Sets the title of the page: trouble first, then the host. Called after all banners were
 * updated. */
export function title(status) {
  const problems = document.querySelectorAll(".banner.bad:not([hidden])").length;
  const parts = [
    status.phase !== "ready" && status.phase,
    problems > 0 && as.plural(problems, "problem"),
    status.host,
    "leastconn",
  ];
  const wanted = parts.filter(Boolean).join(" · ");
  if (document.title !== wanted) document.title = wanted;
}

/** Shows upstreams without available servers, servers that are ejected or down, and servers that fail
 * but are still used. */
function outages(status) {
  const without = status.upstreams.filter((one) => one.available === 0).map((one) => one.name);
  const unhealthy = status.upstreams.reduce((sum, one) => sum + one.unhealthy, 0);
  const failing = status.upstreams.reduce((sum, one) => sum + one.failing, 0);
  const allFailing = status.upstreams.flatMap((upstream) =>
    (upstream.failing_servers ?? []).map((one) => `${upstream.name}/${one.server} is failing since ${as.when(one.since, status.time)}: ${one.reason}. Still used, because max_ejected allows no further ejection`),
  );
  $("outages").hidden = without.length + unhealthy + failing === 0;
  $("outages").className = `banner ${without.length ? "bad" : "warn"}`;
  const names = without.slice(0, SHOWN).join(", ") + (without.length > SHOWN ? `, and ${as.count(without.length - SHOWN)} more` : "");
  text($("outages-title"), without.length ? `No server available: ${names}` : outageTitle(status, unhealthy, failing));
  const all = status.upstreams.flatMap((upstream) =>
    (upstream.unhealthy_servers ?? []).map((one) => `${upstream.name}/${one.server} is ${one.health} since ${as.when(one.since, status.time)}: ${one.reason}`),
  );
  const waiting = status.upstreams.filter((one) => one.waits_for_servers);
  const shown = [
    ...waiting.map((one) => `${one.name}: no server was discovered yet, so the balancer is not ready`),
    ...all,
  ].slice(0, SHOWN);
  const listed = Math.max(0, shown.length - waiting.length);
  if (unhealthy > listed) shown.push(`${as.count(unhealthy - listed)} more are ejected or down`);
  const shownFailing = allFailing.slice(0, SHOWN);
  if (failing > shownFailing.length) shownFailing.push(`${as.count(failing - shownFailing.length)} more are failing`);
  lines($("outages-servers"), [...shown, ...shownFailing]);
}

/** Whether all available servers of an upstream are at `max_conns`. */
export const isFull = ({ available, at_max_conns: full }) => available > 0 && full === available;

/** Shows upstreams whose available servers are all at `max_conns`. */
function full(status) {
  const all = status.upstreams.filter(isFull);
  const effect = ({ queued, queue_size: size }) =>
    queued ? `${as.plural(queued, "connection")} waiting` : size ? "new connections are queued" : "new connections are refused";
  $("full").hidden = all.length === 0;
  lines($("full-upstreams"), all.slice(0, SHOWN).map((one) => `${one.name}: ${as.count(one.available)} of ${as.count(one.servers)}, ${effect(one)}`));
}

/** Shows limits of the process that are reached. */
function limits({ connections, memory }) {
  const { open, limit } = connections;
  const reached = [
    open >= limit && `${as.plural(open, "connection")} of ${as.count(limit)}`,
    memory && memory.used_bytes > memory.limit_bytes && `${as.bytes(memory.used_bytes)} of ${as.bytes(memory.limit_bytes)} memory`,
  ].filter(Boolean);
  $("limits").hidden = reached.length === 0;
  text($("limits"), `New connections are refused (overloaded), because a limit of the process is reached: ${reached.join(", ")}.`);
}

/** The number of servers that are down, ejected and failing. */
function outageTitle(status, unhealthy, failing) {
  // The response lists only the first servers of each upstream.
  const listed = status.upstreams.flatMap((one) => one.unhealthy_servers ?? []);
  const ejected = listed.filter((one) => one.health === "ejected").length;
  const down = unhealthy - ejected;
  const counts =
    unhealthy > listed.length
      ? [`${as.plural(unhealthy, "server")} ejected or down`]
      : [down && `${as.plural(down, "server")} down`, ejected && `${as.plural(ejected, "server")} ejected`];
  return [...counts, failing && `${as.plural(failing, "server")} failing`].filter(Boolean).join(", ");
}

function draining(status) {
  $("draining").hidden = status.phase !== "draining";
  const ends = Date.parse(status.drain_ends);
  const left = ends - Date.parse(status.time);
  drain = status.phase === "draining" ? { at: status.drain_ends && Date.now() + left, open: status.connections.open, ends, now: status.time } : null;
  countDown();
}

/** Updates the time that is left for draining. Called every second. */
export function countDown() {
  if (!drain) return;
  const { at, open, ends, now } = drain;
  const seconds = Math.max(0, Math.ceil((at - Date.now()) / 1000));
  const rest = at ? ` The remaining connections are closed in ${as.span(seconds * 1000).replace(".0", "")}, at ${as.when(ends, now)}.` : "";
  text($("draining"), `Draining: listeners are closed, ${as.plural(open, "open connection")} left.${rest}`);
}
