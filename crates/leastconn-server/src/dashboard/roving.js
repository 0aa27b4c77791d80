// Keyboard navigation in tables: each table is a single tab stop, and arrow keys move in it.
//
// The stops of a line are its buttons. A row without buttons is a stop itself, so that the
// keyboard can scroll long tables.

/** Number of lines that Page Up and Page Down skip. */
const PAGE = 10;

/** The heading line and the rows. */
const linesOf = (table) => [...table.tHead.rows, ...table.tBodies[0].rows];

/** New tables are filled before they are part of the page. */
const isVisible = (element) => !element.isConnected || element.checkVisibility();

function stopsOf(line) {
  const buttons = [...line.querySelectorAll("button")].filter(isVisible);
  return buttons.length > 0 || line.parentElement.tagName === "THEAD" ? buttons : [line];
}

/** Makes a table a single tab stop. */
export function rove(table) {
  table.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const to = target(table, event);
    if (!to) return;
    event.preventDefault();
    select(table, to);
    to.focus();
  });
  table.addEventListener("focusin", ({ target: at }) => {
    if (at.tagName === "BUTTON" || at.tagName === "TR") select(table, at);
  });
}

/** The stop that a key leads to, if there is one. */
function target(table, { key, target: at }) {
  const lines = linesOf(table).filter((line) => stopsOf(line).length > 0);
  const y = lines.findIndex((line) => line.contains(at));
  if (y < 0) return null;
  const here = stopsOf(lines[y]);
  const x = Math.max(0, here.indexOf(at));
  const line = (n) => {
    const stops = stopsOf(lines[Math.max(0, Math.min(lines.length - 1, n))]);
    return stops[Math.min(x, stops.length - 1)];
  };
  const firstRow = lines.findIndex((one) => one.parentElement.tagName === "TBODY");
  switch (key) {
    case "ArrowDown": return line(y + 1);
    case "ArrowUp": return line(y - 1);
    case "ArrowRight": return here[x + 1];
    case "ArrowLeft": return here[x - 1];
    case "PageDown": return line(y + PAGE);
    case "PageUp": return line(Math.max(firstRow, y - PAGE));
    case "Home": return line(firstRow);
    case "End": return line(lines.length - 1);
    default: return null;
  }
}

function select(table, stop) {
  if (table.tabStop && table.tabStop !== stop) table.tabStop.tabIndex = -1;
  table.tabStop = stop;
  stop.tabIndex = 0;
}

/** Calls `change`, which updates the rows. Afterwards, the table still has one tab stop, and
 * if the focused row was removed, its successor has the focus. */
export function updating(table, change) {
  const focused = document.activeElement;
  const at = table.contains(focused) ? linesOf(table).findIndex((line) => line.contains(focused)) : -1;
  change();
  const lines = linesOf(table);
  // Buttons are created as tab stops; only one may remain.
  for (const line of lines) {
    for (const stop of stopsOf(line)) if (stop !== table.tabStop) stop.tabIndex = -1;
  }
  const old = table.tabStop;
  if (!old || !table.contains(old) || !isVisible(old)) {
    const first = [...lines.filter((line) => line.parentElement.tagName === "TBODY"), ...lines].find((line) => stopsOf(line).length > 0);
    if (first) select(table, stopsOf(first)[0]);
  }
  if (at >= 0 && document.activeElement === document.body && lines.length > 0) {
    const next = stopsOf(lines[Math.min(at, lines.length - 1)])[0];
    next?.focus({ preventScroll: true });
  }
}
