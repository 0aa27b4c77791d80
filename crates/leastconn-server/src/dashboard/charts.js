// Charts of the last five minutes. uPlot is a classic script that defines a global.

import { $, attribute, el } from "./dom.js";
import * as as from "./format.js";

const SECONDS = 300;
const sync = { key: "leastconn" };
let samples = [];
let charts = [];

const perSecond = (n) => (n == null ? "" : `${as.rate(n)}/s`);
const bytesPerSecond = (n) => (n == null ? "" : `${as.bytes(n)}/s`);

const latency = (n) => (n == null ? "–" : as.milliseconds(n));

/** Steps of axes for counts: whole numbers. */
const WHOLE = Array.from({ length: 10 }, (_, at) => [1, 2, 5].map((n) => n * 10 ** at)).flat();

const CURVES = [
  {
    id: "curve-rate",
    title: "Connections per second",
    value: perSecond,
    tick: as.count,
    steps: WHOLE,
    series: [
      ["accepted", "--one", (s) => s.accepted_per_second],
      ["refused", "--two", (s) => s.refused_per_second],
    ],
  },
  {
    id: "curve-bytes",
    title: "Bytes per second",
    value: bytesPerSecond,
    tick: as.bytes,
    // Powers of two, which are round numbers in KiB and MiB.
    steps: Array.from({ length: 50 }, (_, at) => 2 ** at),
    series: [
      ["from clients", "--three", (s) => s.received_per_second],
      ["to clients", "--one", (s) => s.sent_per_second],
    ],
  },
  {
    id: "curve-open",
    title: "Open connections",
    value: (n) => (n == null ? "" : as.count(n)),
    tick: as.count,
    steps: WHOLE,
    series: [["open", "--one", (s) => s.open]],
  },
  {
    id: "curve-latency",
    title: "Latency",
    value: latency,
    tick: as.milliseconds,
    series: [
      ["handshake p50", "--three", (s) => s.handshake?.p50_ms ?? null, "line"],
      ["handshake p99", "--three", (s) => s.handshake?.p99_ms ?? null, "dashed", "p99"],
      ["connect p50", "--one", (s) => s.connect?.p50_ms ?? null, "line"],
      ["connect p99", "--one", (s) => s.connect?.p99_ms ?? null, "dashed", "p99"],
    ],
  },
];

/** Draws the charts in the colours of the current theme. */
export function draw() {
  for (const { plot } of charts) plot.destroy();
  // Assigning a custom property to an element resolves it to a colour.
  const probe = el("span");
  document.body.append(probe);
  const style = getComputedStyle(probe);
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return style.color;
  };
  charts = CURVES.map((curve) => ({ curve, plot: plotOf(curve, colour) }));
  probe.remove();
  refresh();
}

/** The labels of the vertical axis. Their values are stored for tests. */
function ticks(curve, at) {
  attribute($(curve.id), "data-ticks", at.join(" "));
  return at.map(curve.tick);
}

/** Makes a colour translucent. */
const translucent = (colour) => colour.replace("rgb(", "rgba(").replace(")", ", .11)");

function plotOf(curve, colour) {
  const axis = {
    stroke: colour("--quiet"),
    font: "11px system-ui, 'Liberation Sans', sans-serif",
    ticks: { show: false },
    grid: { stroke: colour("--line"), width: 1 },
  };
  const options = {
    ...sizeOf($(curve.id)),
    // The right padding is for the last time label.
    padding: [10, 20, 0, 0],
    cursor: { sync, y: false, drag: { x: false, y: false }, points: { size: 6 } },
    legend: { live: true },
    scales: {
      x: { time: true, range: () => [end() - SECONDS, end()] },
      y: { range: (_, min, max) => [0, Math.max(1, max * 1.12)] },
    },
    axes: [
      { ...axis, grid: { show: false }, size: 24, space: 60, incrs: [60, 120, 300], values: (_, at) => at.map((t) => as.clock(t * 1000).slice(0, 5)) },
      { ...axis, size: 62, space: 30, incrs: curve.steps, values: (_, at) => ticks(curve, at) },
    ],
    series: [
      {},
      ...curve.series.map(([label, name, , style, short]) => ({
        label: short ?? label,
        stroke: colour(name),
        fill: style ? undefined : translucent(colour(name)),
        dash: style === "dashed" ? [3, 3] : undefined,
        width: 1.75,
        points: { show: false },
        value: (plot, n, series, at) => curve.value(at == null ? last(plot.data[series]) : n),
      })),
    ],
  };
  const plot = new uPlot(options, dataOf(curve), $(curve.id));
  // `refresh` puts the values of the legend into the label of the chart.
  plot.root.querySelector(".u-legend").setAttribute("aria-hidden", "true");
  return plot;
}

const last = (values) => values[values.length - 1];
const end = () => (samples.length ? last(samples).at : Date.now() / 1000);
const dataOf = (curve) => [samples.map((s) => s.at), ...curve.series.map(([, , read]) => samples.map(read))];

function sizeOf(element) {
  const height = Number(getComputedStyle(element).getPropertyValue("--plot"));
  return { width: Math.max(120, element.clientWidth), height };
}

/** Adds samples of the API; known samples are ignored. */
export function add(list) {
  const read = list.map((sample) => ({ ...sample, at: Date.parse(sample.time) / 1000 }));
  // If the balancer's clock was set back, drop the samples from before the change.
  const clockReset = read.findLastIndex(({ at }, n) => n > 0 && at < read[n - 1].at);
  const fresh = read.slice(Math.max(0, clockReset));
  if (fresh.length && samples.length && last(fresh).at < last(samples).at) samples = [];
  const newest = samples.length ? last(samples).at : -Infinity;
  samples.push(...fresh.filter(({ at }) => at > newest));
  samples = samples.filter(({ at }) => at >= end() - SECONDS);
  refresh();
}

export function forget() {
  samples = [];
}

function refresh() {
  for (const { curve, plot } of charts) {
    plot.setData(dataOf(curve));
    const summary = curve.series.map(([label, , read]) => {
      const values = samples.map(read);
      if (values.every((value) => value === null)) return `${label}: no data yet`;
      return `${label}: now ${curve.value(last(values))}, maximum ${curve.value(Math.max(...values))}`;
    });
    const element = $(curve.id);
    attribute(element, "role", "img");
    attribute(element, "aria-label", `${curve.title} over the last five minutes. ${summary.join("; ")}.`);
  }
}

/** Adapts the charts to the width of the page. */
export function resize() {
  for (const { curve, plot } of charts) {
    const size = sizeOf($(curve.id));
    if (size.width !== plot.width || size.height !== plot.height) plot.setSize(size);
  }
}
