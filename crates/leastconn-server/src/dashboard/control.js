// Changing something: by this page where the admin side takes changes, and always by
// commands that it shows.
//
// The token is the operator's. It goes to the balancer in a header that no other page
// can make a browser send, and is kept in this script and nowhere else: a page that is
// loaded anew does not know it.

import { post } from "./api.js";
import { $, attribute, el, keyed, text } from "./dom.js";
import { say } from "./notice.js";

const USUAL = "/etc/leastconn/leastconn.toml";

let token = "";
let changes = "socket_only";
let file = USUAL;
/** What the dialog is about; see `open`. */
let subject = null;
let changed = () => {};

export function start(afterChange) {
  changed = afterChange;
  $("control-close").addEventListener("click", () => $("control").close());
  $("control-token").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && subject.choices.length === 1) choose(subject.choices[0]);
  });
  $("control").addEventListener("close", () => {
    // It is told of late: another may have been opened meanwhile.
    if ($("control").open) return;
    subject = null;
    $("control-token").value = "";
    // The button that opened it may have gone with its row.
    const at = document.activeElement;
    if (at === document.body || $("control").contains(at)) $("main").focus({ preventScroll: true });
  });
}

/** What may be changed from here, as the balancer says each time. */
export function allow(status) {
  changes = status.changes;
  file = status.configuration.file;
  if (subject) draw();
}

/**
 * Asks what to do. `what` has a `key`, a `title`, `says()` how things are now, and
 * `choices`: { label, says, path, body, done, command, current() }, of which `done` is
 * said when `path` has taken `body`, and `command` does the same by `ctl`. `once`:
 * there is nothing more to do then.
 */
export function open(what) {
  subject = { ...what, busy: false, over: false };
  told("", "");
  $("control-choices").replaceChildren(...what.choices.map(button));
  draw();
  $("control").showModal();
  // What cannot be undone is not a key press away.
  if (what.once) (needsToken() ? $("control-token") : $("control-close")).focus();
}

/** What it is about may have changed. */
export function refresh(key) {
  if (subject?.key === key) draw();
}

const needsToken = () => changes === "with_token" && token === "";

function button(choice) {
  const made = el("button", choice.danger ? "danger" : "", el("b", "", choice.label), el("span", "", choice.says));
  made.type = "button";
  made.addEventListener("click", () => choose(choice));
  return made;
}

function draw() {
  text($("control-title"), subject.title);
  text($("control-now"), subject.over ? "" : subject.says());
  const buttons = $("control-choices").children;
  subject.choices.forEach((choice, at) => {
    attribute(buttons[at], "aria-pressed", choice.current ? choice.current() : null);
    buttons[at].disabled = subject.busy;
  });
  const here = changes !== "socket_only";
  $("control-choices").hidden = !here || subject.over;
  $("control-token-label").hidden = !needsToken() || subject.over;
  $("control-command").hidden = subject.over;
  text(
    $("control-why"),
    here
      ? "Or on the balancer’s machine:"
      : "Nothing can be changed at this address, as [admin] has no token. On the balancer’s machine:",
  );
  const commands = subject.choices.filter((choice) => !choice.current?.()).map(({ command }) => ctl(command));
  keyed($("control-commands"), commands, (line) => line, command);
}

/** As it has to be typed into a shell. */
function ctl(words) {
  const quoted = (word) => (/^[\w./:=-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  const config = file === USUAL ? [] : ["--config", file];
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
      told("good", "Copied.");
    } catch {
      // Not on plain HTTP from another machine: marked, so that a key press copies it.
      getSelection().selectAllChildren(code);
      told("", "Marked: copy it with the keyboard.");
    }
  });
  return { element: el("li", "", code, " ", copy), update() {} };
}

async function choose(choice) {
  const about = subject;
  if (about.busy) return;
  const given = token || $("control-token").value.trim();
  if (changes === "with_token" && !given) {
    told("bad", "Say the token first.");
    $("control-token").focus();
    return;
  }
  about.busy = true;
  draw();
  told("", "…");
  const [kind, message] = await attempt(choice, given);
  about.busy = false;
  if (kind === "good") {
    about.over = Boolean(about.once);
    say(message);
    changed();
  }
  // Another may be open by now.
  if (subject !== about) return;
  told(kind, message);
  draw();
  if (about.over) $("control-close").focus();
  else if (kind === "bad" && needsToken()) $("control-token").focus();
}

/** [whether it was done, in words]. */
async function attempt(choice, given) {
  try {
    await post(choice.path, choice.body, given);
    token = given;
    return ["good", choice.done];
  } catch (error) {
    if (error.status === 401) {
      token = "";
      return ["bad", "This is not the token."];
    }
    return ["bad", error.status ? `Not done: ${error.message}.` : "No answer: it may have been done or not."];
  }
}

function told(kind, message) {
  $("control-said").className = kind;
  text($("control-said"), message);
}
