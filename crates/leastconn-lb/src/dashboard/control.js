// Setting the state of a server: by this page where the admin side takes changes with
// a token, and otherwise by a command that it shows.
//
// The token is the operator's. It goes to the balancer in a header that no other page
// can make a browser send, and is kept for as long as the tab is open.

import { post } from "./api.js";
import { $, attribute, text } from "./dom.js";
import { plural } from "./format.js";
import { say, stateOf } from "./notice.js";

const KEPT = "leastconn.token";
let server = null;
let changed = () => {};

export function start(afterChange) {
  changed = afterChange;
  for (const button of choices()) button.addEventListener("click", () => set(button.dataset.state));
  $("control-close").addEventListener("click", () => $("control").close());
  $("control-copy").addEventListener("click", copy);
  $("control").addEventListener("close", () => {
    server = null;
  });
}

const choices = () => $("control").querySelectorAll("[data-state]");
const name = () => `${server.upstream}/${server.server}`;

export function open(which) {
  server = which;
  text($("control-title"), name());
  $("control-token").value = kept();
  told("", "");
  allowed(true);
  command(which.state === "ready" ? "drain" : "ready");
  refresh(which);
  $("control").showModal();
}

/** The server as it is now, if it is the one that the dialog is about. */
export function refresh(now) {
  if (!server || now.server !== server.server || now.upstream !== server.upstream) return;
  server = now;
  text($("control-now"), `It is ${stateOf(now)}, with ${plural(now.active, "connection")} in flight.`);
  for (const button of choices()) attribute(button, "aria-pressed", button.dataset.state === now.state);
}

async function set(state) {
  const token = $("control-token").value.trim();
  const path = `servers/${encodeURIComponent(server.upstream)}/${encodeURIComponent(server.server)}/state`;
  const what = name();
  command(state);
  told("", "…");
  try {
    await post(path, { state }, token);
    keep(token);
    told("good", `${what} is set to ${state}.`);
    say(`${what} is set to ${state}.`);
    changed();
  } catch (error) {
    if (error.status === 401) {
      told("bad", token ? "This is not the token." : "Say the token first.");
      keep("");
      $("control-token").focus();
    } else if (error.status === 403) {
      // No token is configured, and the answer says what to do about it.
      told("bad", `Not from here: ${error.message}.`);
      allowed(false);
    } else {
      told("bad", `Not done: ${error.message}`);
    }
  }
}

/** Without a way to do it from here, only the other way is shown. */
function allowed(yes) {
  $("control-choices").hidden = !yes;
  $("control-token-label").hidden = !yes;
  text($("control-why"), yes ? "Or on the balancer’s machine:" : "On the balancer’s machine:");
}

function told(kind, message) {
  $("control-said").className = kind;
  text($("control-said"), message);
}

function command(state) {
  const quoted = /^[\w./:-]+$/.test(name()) ? name() : `'${name().replaceAll("'", "'\\''")}'`;
  text($("control-ctl"), `leastconn-lb ctl ${state} ${quoted}`);
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("control-ctl").textContent);
    told("good", "Copied.");
  } catch {
    // Not on plain HTTP from another machine: marked, so that a key press copies it.
    getSelection().selectAllChildren($("control-ctl"));
    told("", "Marked: copy it with the keyboard.");
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}

function keep(token) {
  try {
    if (token) sessionStorage.setItem(KEPT, token);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // Storage is forbidden: it is asked for again.
  }
}
