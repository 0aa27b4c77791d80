// Certificates and CRLs, soonest expiry first.

import { $, attribute, badge, el, empty, keyed, lines, text } from "./dom.js";
import * as as from "./format.js";

const SHOWN = 6;
const DAY = 86_400_000;
/** Certificates that expire within this time are red and are also listed at the top. */
const SOON = 7 * DAY;
/** Certificates that expire within this time are yellow. */
const LATER = 30 * DAY;
/** Colours of the states of CRLs, which are relative to the validity period of the CRL. */
const CRLS = { valid: "good", expires_soon: "warn", expires_now: "bad", expired: "bad" };
let showsAll = false;

export function certificates(status) {
  const all = status.certificates;
  const shown = showsAll ? all : all.slice(0, SHOWN);
  const more = $("certificates-all");
  more.hidden = all.length <= SHOWN || showsAll;
  text(more, `Show all ${as.count(all.length)}`);
  more.onclick = () => {
    showsAll = true;
    certificates(status);
  };
  empty($("no-certificates"), all.length === 0, "None: no listener uses TLS.");
  $("certificates").closest("table").hidden = all.length === 0;
  // Relative to the balancer's clock.
  const now = Date.parse(status.time);
  const left = (one) => Date.parse(one.not_after) - now;
  expiring(all, left);
  keyed($("certificates"), shown.map((one) => ({ one, ms: left(one) })), ({ one }) => `${one.file} ${one.not_after}`, row);
}

/** Shows the files that expire soon at the top of the page. */
function expiring(all, left) {
  // CRLs are renewed often. For CRLs, use the state from the API, which depends on the validity
  // period.
  const isSoon = (one) => (one.kind === "crl" ? one.state !== "valid" : left(one) < SOON);
  const isUrgent = (one) => (one.kind === "crl" ? one.state !== "expires_soon" : left(one) < 2 * DAY);
  const soon = all.filter(isSoon);
  const expired = all.flatMap((one) => (one.expired ?? []).map((name) => `${one.file}: ${name} has expired, and its clients are refused`));
  $("expiring").hidden = soon.length + expired.length === 0;
  const isExpired = (one) => (one.kind === "crl" ? one.state === "expired" : left(one) < 0);
  const isAny = expired.length > 0 || soon.some(isExpired);
  const isLater = soon.some((one) => !isExpired(one));
  const verb = [isAny && "have expired", isLater && "expire soon"].filter(Boolean).join(" or ");
  text($("expiring-title"), `Certificates and CRLs that ${verb}`);
  const worst = soon.some(isUrgent) || expired.length > 0 ? "bad" : "warn";
  $("expiring").className = `banner ${worst}`;
  lines($("expiring-files"), [...expired, ...soon.map((one) => `${one.file} ${expires(one, left(one))}`)].slice(0, SHOWN));
}

function row({ one }) {
  const remaining = el("span", "badge");
  const period = el("span", "sub");
  const name = el("span", "name", one.file.split("/").pop());
  const heading = el("th", "", name, el("span", "sub", `until ${as.moment(one.not_after)}`));
  heading.scope = "row";
  heading.title = one.file;
  const validity = Date.parse(one.not_after) - Date.parse(one.not_before);
  return {
    element: el("tr", "", heading, el("td", "num", remaining, period)),
    update: ({ one, ms }) => {
      const isCrl = one.kind === "crl";
      const kind = isCrl ? CRLS[one.state] : ms < SOON ? "bad" : ms < LATER ? "warn" : "good";
      badge(remaining, ms < 0 ? `expired ${as.span(-ms)} ago` : ms < 2 * DAY ? as.span(ms) : as.plural(one.days_left, "day"), kind);
      attribute(remaining, "data-value", one.days_left);
      text(period, isCrl && validity > 0 ? `of ${as.span(validity)}` : "");
    },
  };
}

function expires(one, ms) {
  if (ms >= 0) return `expires in ${as.span(ms)}`;
  const consequence = one.kind === "crl" ? `: clients of ${one.name} are refused (crl_expired)` : "";
  return `expired ${as.span(-ms)} ago${consequence}`;
}
