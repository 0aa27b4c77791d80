// Creating and updating elements. Text is never parsed as HTML, because API responses
// contain text from clients.

export const $ = (id) => document.getElementById(id);

/** Creates an element: el("td", "num", "12"), el("div", "", child, child). */
export function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Sets a text only if it differs, so that unchanged text keeps its selection and is not
 * announced again by screen readers. */
export function text(element, value) {
  const wanted = String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** The parts of a name, which may wrap between labels instead of within them. */
export function breakable(value) {
  return String(value).split(/(?<=[_.:=@/,])(?=.)/).flatMap((part, at) => (at > 0 ? [el("wbr"), part] : [part]));
}

/** Like `text`, for a name that may wrap between its labels. */
export function name(element, value) {
  if (element.textContent !== String(value)) element.replaceChildren(...breakable(value));
}

/** Sets the length of a bar, 0 to 1. */
export function fill(bar, share) {
  const wanted = `scaleX(${Math.max(0, Math.min(1, share || 0)).toFixed(4)})`;
  if (bar.style.transform !== wanted) bar.style.transform = wanted;
}

export function bar(className = "") {
  const inner = el("i", "fill");
  const outer = el("span", `bar ${className}`, inner);
  outer.setAttribute("aria-hidden", "true");
  return { outer, inner };
}

/**
 * Makes the children of `parent` match `items`, in order. Creates new children with
 * `make(item)`, which returns { element, update }, and updates existing ones, so that
 * they keep focus, selection and transitions.
 */
export function keyed(parent, items, keyOf, make) {
  const known = (parent.rowsByKey ??= new Map());
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  // Remove old children first, so that the remaining ones need not be moved.
  for (const [key, row] of known) {
    if (!wanted.has(key)) {
      row.element.remove();
      known.delete(key);
    }
  }
  const focused = document.activeElement;
  let at = parent.firstElementChild;
  for (const [key, item] of wanted) {
    let row = known.get(key);
    if (!row) {
      row = make(item);
      known.set(key, row);
    }
    row.update(item);
    if (row.element === at) at = at.nextElementSibling;
    else parent.insertBefore(row.element, at);
  }
  // A moved element loses the focus.
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** Sets text and colour of a badge. */
export function badge(element, word, kind) {
  text(element, word);
  const wanted = kind ? `badge ${kind}` : "badge";
  if (element.className !== wanted) element.className = wanted;
}

/** Shows a message in place of an empty table. */
export function empty(element, isEmpty, message) {
  element.hidden = !isEmpty;
  if (isEmpty) text(element, message);
}

/** Makes the items of a list match `wanted`. */
export function lines(list, wanted) {
  keyed(list, wanted, (line) => line, (line) => ({ element: el("li", "", line), update() {} }));
}
