// The dialog that changes states and closes connections. It always shows the equivalent
// `ctl` commands, and sends requests if the admin address accepts changes.
//
// The token is sent in a header that pages of other origins cannot set. It is kept only
// in a variable, so reloading the page discards it.

import { post } from "./api.js";
import { $, attribute, el, keyed, text } from "./dom.js";
import { announce } from "./notice.js";

/** The configuration file that `ctl` uses by default. */
const DEFAULT_FILE = "/etc/leastconn/leastconn.toml";

let token = "";
let changes = "socket_only";
let file = DEFAULT_FILE;
/** The `what` argument of the open dialog; see `open`. */
let subject = null;
let changed = () => {};

export function start(afterChange) {
  changed = afterChange;
  $("control-close").addEventListener("click", () => $("control").close());
  $("control-token").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && subject.choices.length === 1) choose(subject.choices[0]);
  });
  $("control").addEventListener("close", () => {
    // The event is asynchronous, so another dialog may already be open.
    if ($("control").open) return;
    subject = null;
    $("control-token").value = "";
    // The row with the button that opened the dialog may have been removed.
    const at = document.activeElement;
    if (at === document.body || $("control").contains(at)) $("main").focus({ preventScroll: true });
  });
}

/** Updates whether the balancer accepts changes at this address. */
export function allow(status) {
  changes = status.changes;
  file = status.configuration.file;
  if (subject) draw();
}

/**
 * Opens the dialog. `what` has a `key`, a `title`, `describe()` for the current state, and
 * `choices`: { label, description, path, body, done, command, current() }. A choice sends
 * `body` to `path`, and then shows `done`; `command` is the equivalent `ctl` command.
 * With `once`, the dialog accepts only one choice.
 */
export function open(what) {
  subject = { ...what, busy: false, over: false };
  showResult("", "");
  $("control-choices").replaceChildren(...what.choices.map(button));
  draw();
  $("control").showModal();
  // An irreversible action must not have the focus.
  if (what.once) (needsToken() ? $("control-token") : $("control-close")).focus();
}

/** Redraws the dialog if it is about `key`. */
export function refresh(key) {
  if (subject?.key === key) draw();
}

const needsToken = () => changes === "with_token" && token === "";

function button(choice) {
  const made = el("button", choice.danger ? "danger" : "", el("b", "", choice.label), el("span", "", choice.description));
  made.type = "button";
  made.addEventListener("click", () => choose(choice));
  return made;
}

function draw() {
  text($("control-title"), subject.title);
  text($("control-status"), subject.over ? "" : subject.describe());
  const buttons = $("control-choices").children;
  subject.choices.forEach((choice, at) => {
    attribute(buttons[at], "aria-pressed", choice.current ? choice.current() : null);
    buttons[at].disabled = subject.busy;
  });
  const canChange = changes !== "socket_only";
  $("control-choices").hidden = !canChange || subject.over;
  $("control-token-label").hidden = !needsToken() || subject.over;
  $("control-command").hidden = subject.over;
  text(
    $("control-hint"),
    canChange
      ? "Or on the balancer’s machine:"
      : "Changes are disabled at this address, because [admin] has no token. On the balancer’s machine:",
  );
  const commands = subject.choices.filter((choice) => !choice.current?.()).map(({ command }) => ctl(command));
  keyed($("control-commands"), commands, (line) => line, command);
}

/** A `ctl` command, quoted for a shell. */
function ctl(words) {
  const quoted = (word) => (/^[\w./:=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  const config = file === DEFAULT_FILE ? [] : ["--config", file];
  return ["leastconn-lb", "ctl", ...config, ...words].map(quoted).join(" ");
}

function command(line) {
  const code = el("code", "", line);
  code.tabIndex = 0;
  const copy = el("button", "small", "Copy");
  copy.type = "button";
  copy.setAttribute("aria-label", `Copy ${line}`);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(line);
      showResult("good", "Copied.");
    } catch {
      // The clipboard is unavailable on plain HTTP from another machine: select the text.
      getSelection().selectAllChildren(code);
      showResult("", "Selected: copy it with the keyboard.");
    }
  });
  return { element: el("li", "", code, " ", copy), update() {} };
}

async function choose(choice) {
  const about = subject;
  if (about.busy) return;
  const given = token || $("control-token").value.trim();
  if (changes === "with_token" && !given) {
    showResult("bad", "Enter the token first.");
    $("control-token").focus();
    return;
  }
  about.busy = true;
  draw();
  showResult("", "…");
  const [kind, message] = await attempt(choice, given);
  about.busy = false;
  if (kind === "good") {
    about.over = Boolean(about.once);
    announce(message);
    changed();
  }
  // The user may have opened another dialog during the request.
  if (subject !== about) return;
  showResult(kind, message);
  draw();
  if (about.over) $("control-close").focus();
  else if (kind === "bad" && needsToken()) $("control-token").focus();
}

/** Sends the request of a choice; returns [class, message]. */
async function attempt(choice, given) {
  try {
    const { fleet } = await post(choice.path, choice.body, given);
    token = given;
    return ["good", [choice.done, incomplete(fleet)].filter(Boolean).join(" ")];
  } catch (error) {
    if (error.status === 401) {
      token = "";
      return ["bad", "Wrong token."];
    }
    return ["bad", error.status ? `Failed: ${error.message}.` : "No response: the request may or may not have been executed."];
  }
}

/** Describes the part of a fleet command that was not carried out. */
function incomplete(fleet) {
  if (fleet?.error) return `On this balancer only: ${fleet.error}.`;
  if (fleet?.missing?.length) return `Not confirmed by ${fleet.missing.join(", ")}.`;
  return "";
}

function showResult(kind, message) {
  $("control-result").className = kind;
  text($("control-result"), message);
}
