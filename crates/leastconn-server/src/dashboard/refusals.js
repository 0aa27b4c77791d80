// The last refused connections.

import { $, attribute, breakable, el, empty, keyed, text } from "./dom.js";
import * as as from "./format.js";
import { explain } from "./reasons.js";
import { rove, updating } from "./roving.js";

const SHOWN = 10;
const MAX_ROWS = 200;
let limit = SHOWN;

export const query = () => ({ limit, latest: true });

/** `changed` is called when more refusals must be fetched. */
export function start(changed) {
  $("last-refusals-all").addEventListener("click", () => {
    limit = MAX_ROWS;
    changed();
  });
  rove($("last-refusals").closest("table"));
}

export function show({ refusals, total }) {
  empty($("no-last-refusals"), refusals.length === 0, "No refusals since the start.");
  $("last-refusals").closest(".scroll").hidden = refusals.length === 0;
  const more = $("last-refusals-all");
  more.hidden = refusals.length >= total;
  text(more, `Show all ${as.count(total)}`);
  // After a restart, the balancer assigns the same connection IDs again.
  const table = $("last-refusals").closest("table");
  updating(table, () => keyed($("last-refusals"), refusals, ({ connection, time }) => `${time} ${connection}`, row));
}

/** The best known name of the client. */
export const who = (one) => one.client ?? one.identity ?? one.names?.[0] ?? one.subject ?? "unknown";

function row(one) {
  const reason = el("th", "", el("span", "name", ...breakable(one.outcome)));
  reason.scope = "row";
  attribute(reason, "title", explain(one.outcome));
  const name = el("td", "", el("span", "name", ...breakable(who(one))), el("span", "sub only-narrow", one.source));
  const all = [one.identity, ...(one.names ?? []), one.subject, one.issuer && `issued by ${one.issuer}`, one.serial && `serial ${one.serial}`];
  attribute(name, "title", all.filter(Boolean).join("\n") || null);
  const detail = el("td", "more", el("span", "long", one.detail ?? ""));
  attribute(detail, "title", one.detail);
  const element = el("tr", "", reason, name, el("td", "more", one.source), el("td", "more", one.listener), detail, el("td", "num", as.clock(one.time)));
  element.dataset.refusal = one.connection;
  // Refusals never change.
  return { element, update: () => {} };
}
