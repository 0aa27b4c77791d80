// The page header, current values, outcomes, listeners and certificates.

import { $, attribute, badge, bar, el, empty, fill, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { explain, isRefusal, refused } from "./reasons.js";

const SHOWN = 6;
const DAY = 86_400_000;
/** Certificates that expire within this time are red and are also listed at the top. */
const SOON = 7 * DAY;
/** Certificates that expire within this time are yellow. */
const LATER = 30 * DAY;
let allCertificates = false;

const SET_FOR = { here: " on this balancer only", fleet: " for the fleet" };
const PHASES = { starting: "warn", ready: "good", draining: "warn" };

export function head(status) {
  const { configuration } = status;
  text($("version"), status.version);
  badge($("phase"), status.phase, PHASES[status.phase]);
  document.title = status.phase === "ready" ? "leastconn" : `${status.phase} · leastconn`;
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
  $("draining").hidden = status.phase !== "draining";
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

/** Shows upstreams without available servers, and servers that are ejected or down. */
function outages(status) {
  const without = status.upstreams.filter((one) => one.available === 0).map((one) => one.name);
  const unhealthy = status.upstreams.reduce((sum, one) => sum + one.unhealthy, 0);
  $("outages").hidden = without.length + unhealthy === 0;
  $("outages").className = `banner ${without.length ? "bad" : "warn"}`;
  const names = without.slice(0, SHOWN).join(", ") + (without.length > SHOWN ? `, and ${as.count(without.length - SHOWN)} more` : "");
  text($("outages-title"), without.length ? `No server available: ${names}` : `${as.plural(unhealthy, "server")} down`);
  const all = status.upstreams.flatMap((upstream) =>
    (upstream.unhealthy_servers ?? []).map((one) => `${upstream.name}/${one.server} is ${one.health} since ${as.when(one.since, status.time)}: ${one.reason}`),
  );
  const shown = all.slice(0, SHOWN);
  if (unhealthy > shown.length) shown.push(`${as.count(unhealthy - shown.length)} more are ejected or down`);
  lines($("outages-servers"), shown);
}

export function figures(status, sample) {
  const all = status.connections;
  figure("open", all.open, as.count(all.open));
  text($("open-of"), `of ${as.count(all.limit)}`);
  alarm("open", all.open >= all.limit * 0.9 && "bad");
  figure("handshakes", all.handshakes, as.count(all.handshakes));
  text($("waiting"), all.handshakes_waiting ? `${as.count(all.handshakes_waiting)} waiting` : "");
  const servers = status.upstreams.reduce((sum, one) => sum + one.servers, 0);
  const available = status.upstreams.reduce((sum, one) => sum + one.available, 0);
  figure("available", available, as.count(available));
  text($("available-of"), `of ${as.count(servers)}`);
  const without = status.upstreams.some((one) => one.available === 0);
  alarm("available", without ? "bad" : available < servers && "warn");
  if (!sample) return;
  figure("new", sample.accepted_per_second, as.rate(sample.accepted_per_second));
  figure("refused", sample.refused_per_second, as.rate(sample.refused_per_second));
  for (const [id, n] of [
    ["in", sample.received_per_second],
    ["out", sample.sent_per_second],
  ]) {
    const [value, unit] = as.bytesParts(n);
    figure(id, n, value);
    text($(`${id}-unit`), `${unit}/s`);
  }
}

/** Shows a rounded value, and stores the exact one in `data-value`. */
function figure(id, value, shown) {
  attribute($(id), "data-value", value);
  text($(id), shown);
}

function alarm(id, kind) {
  const { classList } = $(id).closest("div");
  for (const each of ["bad", "warn"]) classList.toggle(each, kind === each);
}

export function outcomes(status) {
  const entries = Object.entries(status.connections.outcomes).sort((a, b) => b[1] - a[1]);
  tally("refusals", entries.filter(([code]) => isRefusal(code)), "None so far.");
  tally("endings", entries.filter(([code]) => !isRefusal(code)), "None so far.");
}

function tally(id, entries, none) {
  const total = entries.reduce((sum, [, n]) => sum + n, 0);
  const most = entries[0]?.[1] ?? 1;
  text($(`${id}-total`), entries.length ? `${as.count(total)} since the start` : "");
  attribute($(`${id}-total`), "data-value", total);
  empty($(`no-${id}`), entries.length === 0, none);
  $(id).closest("table").hidden = entries.length === 0;
  keyed($(id), entries, ([code]) => code, ([code]) => {
    const { outer, inner } = bar(id === "refusals" ? "refusal" : "");
    const number = el("td", "num");
    const heading = el("th", "", el("span", "name mono", code), el("span", "sub long", explain(code)), outer);
    heading.scope = "row";
    heading.title = explain(code);
    const element = el("tr", "tally", heading, number);
    element.dataset.code = code;
    return {
      element,
      update: ([, n]) => {
        text(number, as.count(n));
        attribute(number, "data-value", n);
        fill(inner, n / most);
      },
    };
  });
}

export function listeners(status) {
  empty($("no-listeners"), status.listeners.length === 0, "None.");
  keyed($("listeners"), status.listeners, (one) => one.name, (one) => {
    const sub = el("span", "sub long");
    const heading = el("th", "", el("span", "name", one.name), sub);
    heading.scope = "row";
    heading.title = one.name;
    const [open, accepted, refusedCell] = [el("td", "num"), el("td", "num"), el("td", "num")];
    return {
      element: el("tr", "", heading, open, accepted, refusedCell),
      update: (now) => {
        const kind = now.client_certificate ? "mTLS" : now.tls ? "TLS" : "TCP";
        const where = now.addresses.length ? now.addresses.join(", ") : "closed, draining";
        text(sub, `${kind} · ${where}${now.upstream ? ` → ${now.upstream}` : ""}`);
        attribute(sub, "title", sub.textContent);
        text(open, as.count(now.open));
        text(accepted, as.count(now.accepted));
        text(refusedCell, as.count(refused(now.outcomes)));
      },
    };
  });
}

export function certificates(status) {
  const all = status.certificates;
  const shown = allCertificates ? all : all.slice(0, SHOWN);
  const more = $("certificates-all");
  more.hidden = all.length <= SHOWN || allCertificates;
  text(more, `Show all ${as.count(all.length)}`);
  more.onclick = () => {
    allCertificates = true;
    certificates(status);
  };
  empty($("no-certificates"), all.length === 0, "None: no listener uses TLS.");
  $("certificates").closest("table").hidden = all.length === 0;
  // Relative to the balancer's clock.
  const now = Date.parse(status.time);
  const left = (one) => Date.parse(one.not_after) - now;
  // CRLs are renewed often. For CRLs, use the state from the API, which depends on the validity
  // period.
  const isSoon = (one) => (one.kind === "crl" ? one.state !== "valid" : left(one) < SOON);
  const isUrgent = (one) => (one.kind === "crl" ? one.state !== "expires_soon" : left(one) < 2 * DAY);
  const soon = all.filter(isSoon);
  const expired = all.flatMap((one) => (one.expired ?? []).map((name) => `${one.file}: ${name} has expired, and its clients are refused`));
  $("expiring").hidden = soon.length + expired.length === 0;
  const worst = soon.some(isUrgent) || expired.length > 0 ? "bad" : "warn";
  $("expiring").className = `banner ${worst}`;
  lines($("expiring-files"), [...expired, ...soon.map((one) => `${one.file} ${expires(one, left(one))}`)].slice(0, SHOWN));
  keyed($("certificates"), shown, (one) => `${one.file} ${one.not_after}`, (one) => {
    const days = el("span", "badge");
    const heading = el(
      "th",
      "",
      el("span", "name", one.file.split("/").pop()),
      el("span", "sub", `until ${as.moment(one.not_after)}`),
    );
    heading.scope = "row";
    heading.title = one.file;
    return {
      element: el("tr", "", heading, el("td", "num", days)),
      update: (one) => {
        const ms = left(one);
        const kind = one.kind === "crl" ? LISTS[one.state] : ms < SOON ? "bad" : ms < LATER ? "warn" : "good";
        badge(days, ms < 0 ? `expired ${as.span(-ms)} ago` : ms < 2 * DAY ? as.span(ms) : as.plural(one.days_left, "day"), kind);
        attribute(days, "data-value", one.days_left);
      },
    };
  });
}

const LISTS = { valid: "good", expires_soon: "warn", expires_now: "bad", expired: "bad" };

function expires(one, ms) {
  if (ms >= 0) return `expires in ${as.span(ms)}`;
  const consequence = one.kind === "crl" ? `: clients of ${one.name} are refused (crl_expired)` : "";
  return `expired ${as.span(-ms)} ago${consequence}`;
}

function lines(list, wanted) {
  keyed(list, wanted, (line) => line, (line) => ({ element: el("li", "", line), update() {} }));
}
