// Announcements for screen readers. Important changes are announced, values are not.

import { $, text } from "./dom.js";

/** Maximum number of servers in an announcement. */
const MAX_SERVERS = 4;
const before = { phase: null, states: new Map(), reload: null };

/** Compares with the previous state, and announces changes. */
export function watch(status, servers) {
  const messages = [];
  if (before.phase && before.phase !== status.phase) messages.push(`The balancer is ${status.phase}.`);
  const reload = status.configuration.last_reload;
  if (before.phase && reload && reload.time !== before.reload) {
    messages.push(reload.outcome === "applied" ? "A new configuration was applied." : "A reload was rejected.");
  }
  const changes = [];
  const states = new Map();
  // The page may know only the most important servers. An unknown server is assumed to
  // have been up.
  const all = status.upstreams.reduce((sum, one) => sum + one.servers, 0);
  const unknown = before.phase && servers.length < all ? "up" : undefined;
  for (const server of servers) {
    const name = `${server.upstream}/${server.server}`;
    const state = stateOf(server);
    states.set(name, state);
    const was = before.states.get(name) ?? unknown;
    if (was && was !== state && !(was === "up" && state === "unchecked")) changes.push(`${name} is ${state}.`);
  }
  messages.push(...changes.slice(0, MAX_SERVERS));
  if (changes.length > MAX_SERVERS) messages.push(`The states of ${changes.length - MAX_SERVERS} more servers changed.`);
  Object.assign(before, { phase: status.phase, states, reload: reload?.time ?? null });
  if (messages.length > 0) announce(messages.join(" "));
}

/** Announces a message to screen readers. */
export function announce(message) {
  text($("notice"), message);
}

/** The health of a server as one word. Servers without checks are not known to be up. */
export function healthOf({ health, checked = true, kept_in_use: failure }) {
  if (health !== "up") return health;
  if (failure) return "failing";
  return checked ? "up" : "unchecked";
}

/** The state of a server as one word: administrative state and health. */
export function stateOf(server) {
  const ofAgent = server.agent?.state ?? "ready";
  const state = server.state === "ready" ? ofAgent : server.state;
  if (state === "ready") return healthOf(server);
  return server.health === "up" || state === "maint" ? state : `${state}, ${server.health}`;
}
