// The fleet: its state, the store and the members.

import { get } from "./api.js";
import { $, attribute, badge, el, keyed, text } from "./dom.js";
import * as as from "./format.js";

const STATES = {
  joining: ["joining", "warn"],
  joined: ["joined", "good"],
  cut_off: ["cut off", "bad"],
};

/** Fetches the fleet if the last `status` contains one. */
export async function fetchFleet(status) {
  if (!status?.fleet) return null;
  try {
    return await get("fleet");
  } catch (error) {
    // A reload has removed `[fleet]`.
    if (error.status === 404) return null;
    throw error;
  }
}

export function show(fleet, status) {
  problem(status.fleet, status.time);
  $("fleet").hidden = !fleet;
  if (!fleet) return;
  text($("fleet-name"), fleet.name);
  badge($("fleet-state"), ...STATES[fleet.state]);
  const { address, round_trip_ms: ms, failures } = fleet.store;
  const store = [
    `store ${address}`,
    ms !== undefined && `round trip ${ms < 9.95 ? ms.toFixed(1) : as.count(ms)} ms`,
    failures && as.plural(failures, "failure"),
  ];
  text($("fleet-store"), store.filter(Boolean).join(" · "));
  const version = fleet.members.find((one) => one.this)?.version;
  // During an upgrade, two processes have the same name.
  const keys = new Map();
  for (const one of fleet.members) {
    const n = [...keys.values()].filter((key) => key.startsWith(`${one.member} `)).length;
    keys.set(one, `${one.member} ${n}`);
  }
  keyed($("fleet-members"), fleet.members, (one) => keys.get(one), (one) => {
    const sub = el("span", "sub long");
    const name = el("span", "name");
    const heading = el("th", "", name, sub);
    heading.scope = "row";
    const [open, heard] = [el("td", "num"), el("td", "num")];
    const element = el("tr", "", heading, open, heard);
    element.dataset.member = one.member;
    return {
      element,
      update: (now) => {
        text(name, now.this ? `${now.member} (this balancer)` : now.member);
        const notes = [
          now.status === "leaving" && "leaving",
          now.version && (now.version === version ? now.version : `other version ${now.version}`),
          now.other_configuration && `runs another configuration since ${as.when(now.configuration_since, status.time)}`,
        ];
        text(sub, notes.filter(Boolean).join(" · "));
        sub.classList.toggle("warn", now.other_configuration || now.status === "leaving");
        attribute(heading, "title", [now.host, sub.textContent].filter(Boolean).join(" · "));
        text(open, now.connections === undefined ? "–" : as.count(now.connections));
        text(heard, now.this ? "–" : as.span(now.last_heard_seconds * 1000));
      },
    };
  });
}

/** Shows a banner while the store cannot be used. */
function problem(fleet, now) {
  const cut = fleet?.state === "cut_off";
  const joining = fleet?.state === "joining" && fleet.error;
  const banner = $("fleet-problem");
  banner.hidden = !cut && !joining;
  if (banner.hidden) return;
  const reason = fleet.error ? `: ${fleet.error}` : ".";
  const since = as.when(fleet.since, now);
  banner.className = `banner ${cut ? "bad" : "warn"}`;
  text(
    banner,
    cut
      ? `Cut off from fleet ${fleet.name} since ${since}, so this balancer admits its share of each limit${reason}`
      : `Fleet ${fleet.name} has not been reached since the start${reason}`,
  );
}
