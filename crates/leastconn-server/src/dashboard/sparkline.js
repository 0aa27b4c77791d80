// A small chart of the last five minutes in a table cell.

import { attribute, text } from "./dom.js";
import * as as from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
/** Readings in five minutes; the chart is as many units wide. */
const READINGS = 50;
const HEIGHT = 20;
/** Time between two readings, seconds. */
const INTERVAL = 6;

const svg = (tag, className) => {
  const element = document.createElementNS(SVG, tag);
  element.setAttribute("class", className);
  return element;
};

/** Creates a chart. `update(history, most)` draws a history of the API; `most` is the value at
 * the top. */
export function sparkline() {
  const element = svg("svg", "spark");
  element.setAttribute("viewBox", `0 0 ${READINGS - 1} ${HEIGHT}`);
  element.setAttribute("preserveAspectRatio", "none");
  element.setAttribute("role", "img");
  const [title, area, line, down] = [svg("title", ""), svg("path", "area"), svg("path", "line"), svg("path", "down")];
  element.append(title, area, line, down);
  let drawn = "";
  return {
    element,
    update: (history, most) => {
      const { open = [], down: outages = [] } = history ?? {};
      const key = JSON.stringify([open, outages, most]);
      if (key === drawn) return;
      drawn = key;
      const start = READINGS - open.length;
      const y = (n) => (HEIGHT - 1 - (Math.min(n, most) / most) * (HEIGHT - 2)).toFixed(1);
      const points = open.map((n, at) => `${start + at} ${y(n)}`).join("L");
      attribute(line, "d", points ? `M${points}` : "");
      attribute(area, "d", points ? `M${start} ${HEIGHT}L${points}L${READINGS - 1} ${HEIGHT}Z` : "");
      attribute(down, "d", outages.map((at) => `M${start + at - 0.5} ${HEIGHT - 2}h1`).join(""));
      const label = summary(open, outages);
      attribute(element, "aria-label", label);
      text(title, label);
    },
  };
}

function summary(open, outages) {
  if (open.length === 0) return "No history yet";
  const [least, most] = [Math.min(...open), Math.max(...open)];
  const range = least === most ? as.count(most) : `${as.count(least)} to ${as.count(most)}`;
  const down = outages.length ? `, down for about ${as.span(outages.length * INTERVAL * 1000)}` : "";
  return `Last ${as.span(open.length * INTERVAL * 1000)}: ${range} open${down}`;
}
