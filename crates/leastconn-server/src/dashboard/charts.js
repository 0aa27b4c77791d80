// The last five minutes as curves, by uPlot. It is a plain script, and `uPlot` global.

import { $, attribute, el } from "./dom.js";
import * as as from "./format.js";

const SECONDS = 300;
const sync = { key: "leastconn" };
let samples = [];
let charts = [];

const perSecond = (n) => (n == null ? "" : `${as.rate(n)}/s`);
const bytesPerSecond = (n) => (n == null ? "" : `${as.bytes(n)}/s`);

const CURVES = [
  {
    id: "curve-rate",
    title: "Connections a second",
    value: perSecond,
    tick: as.rate,
    series: [
      ["accepted", "--one", (s) => s.accepted_per_second],
      ["refused", "--two", (s) => s.refused_per_second],
    ],
  },
  {
    id: "curve-bytes",
    title: "Bytes a second",
    value: bytesPerSecond,
    tick: as.bytes,
    // Round in the units that are shown: 512 KiB and not 500 000 bytes.
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
    series: [["open", "--one", (s) => s.open]],
  },
];

/** Draws them, in the colours of now. */
export function draw() {
  for (const { plot } of charts) plot.destroy();
  // A custom property is but text until something has it as its colour.
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

/** How little of the ground an area covers. */
const faint = (colour) => colour.replace("rgb(", "rgba(").replace(")", ", .11)");

function plotOf(curve, colour) {
  const axis = {
    stroke: colour("--quiet"),
    font: "11px system-ui, 'Liberation Sans', sans-serif",
    ticks: { show: false },
    grid: { stroke: colour("--line"), width: 1 },
  };
  const options = {
    ...sizeOf($(curve.id)),
    // On the right for half a time of day.
    padding: [10, 20, 0, 0],
    cursor: { sync, y: false, drag: { x: false, y: false }, points: { size: 6 } },
    legend: { live: true },
    scales: {
      x: { time: true, range: () => [end() - SECONDS, end()] },
      y: { range: (_, min, max) => [0, Math.max(1, max * 1.12)] },
    },
    axes: [
      { ...axis, grid: { show: false }, size: 24, space: 60, incrs: [60, 120, 300], values: (_, at) => at.map((t) => as.clock(t * 1000).slice(0, 5)) },
      { ...axis, size: 62, space: 30, incrs: curve.steps, values: (_, at) => at.map(curve.tick) },
    ],
    series: [
      {},
      ...curve.series.map(([label, name]) => ({
        label,
        stroke: colour(name),
        fill: faint(colour(name)),
        width: 1.75,
        points: { show: false },
        value: (plot, n, series, at) => curve.value(at == null ? last(plot.data[series]) : n),
      })),
    ],
  };
  const plot = new uPlot(options, dataOf(curve), $(curve.id));
  // What the legend says stands in the curve's label (refresh), too.
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

/** Takes in samples of the API; those that are known already are passed over. */
export function add(list) {
  const read = list.map((sample) => ({ ...sample, at: Date.parse(sample.time) / 1000 }));
  // The balancer's clock was set back: what was before has no place on the axis.
  const back = read.findLastIndex(({ at }, n) => n > 0 && at < read[n - 1].at);
  const fresh = read.slice(Math.max(0, back));
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
    const said = curve.series.map(([label, , read]) => {
      const values = samples.map(read);
      if (values.length === 0) return `${label}: nothing yet`;
      return `${label}: now ${curve.value(last(values))}, at most ${curve.value(Math.max(...values))}`;
    });
    const element = $(curve.id);
    attribute(element, "role", "img");
    attribute(element, "aria-label", `${curve.title} over the last five minutes. ${said.join("; ")}.`);
  }
}

/** As wide as there is room for. */
export function resize() {
  for (const { curve, plot } of charts) {
    const size = sizeOf($(curve.id));
    if (size.width !== plot.width || size.height !== plot.height) plot.setSize(size);
  }
}
