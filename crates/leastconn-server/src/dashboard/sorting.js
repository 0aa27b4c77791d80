// Headings that sort a table.

import { attribute, el, text } from "./dom.js";

/** The order of a table: a column, or the default order, which shows trouble first. */
export class Order {
  column = null;
  reversed = false;
  #changed;

  constructor(changed) {
    this.#changed = changed;
  }

  /** Selects a column, then reverses it if it is `reversible`, then returns to the default. */
  choose(column, reversible) {
    if (this.column !== column) {
      this.column = column;
      this.reversed = false;
    } else if (reversible && !this.reversed) {
      this.reversed = true;
    } else {
      this.column = null;
      this.reversed = false;
    }
    this.#changed();
  }
}

/** Columns with text are sorted from A to Z, numbers from the largest down. */
const isText = (cell) => cell.dataset.order === "text";

/** Puts a button into a heading with the attribute `data-sort`, which names the column. With
 * `data-order="text"`, it is sorted ascending first. */
export function sortable(cell, order, reversible) {
  const column = cell.dataset.sort;
  const button = el("button", "sort", ...cell.childNodes, el("span", "arrow"));
  button.type = "button";
  button.addEventListener("click", () => order.choose(column, reversible));
  cell.replaceChildren(button);
}

/** Marks the heading of the selected column. */
export function mark(row, order) {
  for (const cell of row.cells) {
    if (!cell.dataset.sort) continue;
    const selected = cell.dataset.sort === order.column;
    const ascending = isText(cell) !== order.reversed;
    attribute(cell, "aria-sort", selected ? (ascending ? "ascending" : "descending") : null);
    text(cell.querySelector(".arrow"), selected ? (ascending ? "▲" : "▼") : "");
  }
}

/** Compares two values: numbers from the largest to the smallest, and texts from A to Z, with
 * numbers in them by value. */
export function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, "en", { numeric: true });
  return b - a;
}
