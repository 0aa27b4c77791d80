// Current values, outcomes and listeners.

import { $, attribute, bar, el, empty, fill, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { isFull } from "./head.js";
import { explain, isRefusal, refused } from "./reasons.js";
import { who } from "./refusals.js";

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
  const isWarning = available < servers || status.upstreams.some(isFull);
  alarm("available", without ? "bad" : isWarning && "warn");
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
  for (const name of ["handshake", "connect"]) {
    const latency = sample[name];
    figure(`${name}-p50`, latency?.p50_ms ?? "", latency ? as.milliseconds(latency.p50_ms) : "–");
    text($(`${name}-p99`), latency ? `p99 ${as.milliseconds(latency.p99_ms)}` : "");
    attribute($(`${name}-p99`), "data-value", latency?.p99_ms);
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

/** Counts of ended connections. `latest` has the newest refusal of each reason code. */
export function outcomes(status, latest = []) {
  const entries = Object.entries(status.connections.outcomes).sort((a, b) => b[1] - a[1]);
  const newest = new Map(latest.map((one) => [one.outcome, one]));
  const item = ([code, n]) => ({ code, n, newest: newest.get(code), now: status.time });
  tally("refusals", entries.filter(([code]) => isRefusal(code)).map(item));
  tally("endings", entries.filter(([code]) => !isRefusal(code)).map(item));
}

function tally(id, items) {
  const total = items.reduce((sum, { n }) => sum + n, 0);
  const most = items[0]?.n ?? 1;
  text($(`${id}-total`), items.length ? `${as.count(total)} since the start` : "");
  attribute($(`${id}-total`), "data-value", total);
  empty($(`no-${id}`), items.length === 0, "None so far.");
  $(id).closest("table").hidden = items.length === 0;
  keyed($(id), items, ({ code }) => code, ({ code }) => {
    const { outer, inner } = bar(id === "refusals" ? "refusal" : "");
    const number = el("td", "num");
    const last = el("span", "sub long last-refusal");
    const heading = el("th", "", el("span", "name mono", code), el("span", "sub long", explain(code)), last, outer);
    heading.scope = "row";
    heading.title = explain(code);
    const element = el("tr", "tally", heading, number);
    element.dataset.code = code;
    return {
      element,
      update: ({ n, newest, now }) => {
        text(number, as.count(n));
        attribute(number, "data-value", n);
        last.hidden = !newest;
        if (newest) text(last, `Last: ${who(newest)} from ${newest.source} at ${as.when(newest.time, now)}`);
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
