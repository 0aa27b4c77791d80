// Certificates and CRLs, soonest expiry first.

import { $, attribute, badge, el, empty, keyed, lines, text } from "./dom.js";
import * as as from "./format.js";

const SHOWN = 6;
const DAY = 86_400_000;
/** Colours of the states, which are relative to the validity period of the file. */
const STATES = { valid: "good", expires_soon: "warn", expires_now: "bad", expired: "bad" };
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
  const soon = all.filter((one) => one.state !== "valid");
  const expired = all.flatMap((one) => (one.expired ?? []).map((name) => `${one.file}: ${name} has expired, and its clients are refused`));
  $("expiring").hidden = soon.length + expired.length === 0;
  const isExpired = (one) => one.state === "expired";
  const isAny = expired.length > 0 || soon.some(isExpired);
  const isLater = soon.some((one) => !isExpired(one));
  const verb = [isAny && "have expired", isLater && "expire soon"].filter(Boolean).join(" or ");
  text($("expiring-title"), `Certificates and CRLs that ${verb}`);
  const isBad = expired.length > 0 || soon.some((one) => STATES[one.state] === "bad");
  $("expiring").className = `banner ${isBad ? "bad" : "warn"}`;
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
      badge(remaining, ms < 0 ? `expired ${as.span(-ms)} ago` : ms < 2 * DAY ? as.span(ms) : as.plural(one.days_left, "day"), STATES[one.state]);
      attribute(remaining, "data-value", one.days_left);
      text(period, validity > 0 ? `of ${as.span(validity)}` : "");
    },
  };
}

function expires(one, ms) {
  if (ms >= 0) return `expires in ${as.span(ms)}`;
  const consequence = {
    crl: `: clients of ${one.name} are refused (crl_expired)`,
    authorities: ": certificates that it issued are refused",
    certificate: ": peers that verify it refuse the connection",
  }[one.kind] ?? "";
  return `expired ${as.span(-ms)} ago${consequence}`;
}
