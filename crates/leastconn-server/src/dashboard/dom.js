// Making and changing elements. There is no way here to make HTML of a text: what
// the balancer says comes in part from its clients.

export const $ = (id) => document.getElementById(id);

/** An element: el("td", "num", "12"), el("div", "", child, child). */
export function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Changes a text only where it is another: what did not change is not drawn again,
 * keeps its selection, and is not read out again. */
export function text(element, value) {
  const wanted = String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function attribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** How full a bar is, 0 to 1. */
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
 * Makes the children of `parent` those of `items`, in their order: makes what is new
 * with `make(item)`, which returns { element, update }, and updates what is there, so
 * that focus, selection and transitions live on.
 */
export function keyed(parent, items, keyOf, make) {
  const known = (parent.rowsByKey ??= new Map());
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  // First, so that those that stay are in their places, and are not moved.
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
  // Who is moved loses it.
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** A word in a colour. */
export function badge(element, word, kind) {
  text(element, word);
  const wanted = kind ? `badge ${kind}` : "badge";
  if (element.className !== wanted) element.className = wanted;
}

/** One line instead of rows, while there are none. */
export function empty(element, isEmpty, message) {
  element.hidden = !isEmpty;
  if (isEmpty) text(element, message);
}
