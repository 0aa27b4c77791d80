// What somebody who listens to the page is told: changes that matter, and no figures.

import { $, text } from "./dom.js";

const MOST = 4;
const before = { phase: null, states: new Map(), reload: null };

/** Compares with what was so before, and says what has changed. */
export function watch(status, servers) {
  const said = [];
  if (before.phase && before.phase !== status.phase) said.push(`The balancer is ${status.phase}.`);
  const reload = status.configuration.last_reload;
  if (before.phase && reload && reload.time !== before.reload) {
    said.push(reload.outcome === "applied" ? "A new configuration was applied." : "A reload was rejected.");
  }
  const changes = [];
  const states = new Map();
  // Of very many servers only some are known here. One that was not, and is not well,
  // was a moment ago.
  const all = status.upstreams.reduce((sum, one) => sum + one.servers, 0);
  const unknown = before.phase && servers.length < all ? "up" : undefined;
  for (const server of servers) {
    const name = `${server.upstream}/${server.server}`;
    const state = stateOf(server);
    states.set(name, state);
    const was = before.states.get(name) ?? unknown;
    if (was && was !== state) changes.push(`${name} is ${state}.`);
  }
  said.push(...changes.slice(0, MOST));
  if (changes.length > MOST) said.push(`The states of ${changes.length - MOST} more servers changed.`);
  Object.assign(before, { phase: status.phase, states, reload: reload?.time ?? null });
  if (said.length > 0) say(said.join(" "));
}

/** Says it to those who listen. */
export function say(message) {
  text($("notice"), message);
}

/** One word for what an operator wants and what health checks found. */
export function stateOf(server) {
  if (server.state === "ready") return server.health;
  return server.health === "up" || server.state === "maint" ? server.state : `${server.state}, ${server.health}`;
}
