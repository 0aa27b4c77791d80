// Formatting of numbers and times, independent of the locale.

const THIN = "\u202f";

/** 12 345 */
export function count(n) {
  return String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, THIN);
}

/** A rate, with one decimal below 10. */
export function rate(n) {
  if (!Number.isFinite(n) || n < 0.05) return "0";
  return n < 9.95 ? n.toFixed(1) : count(n);
}

/** [number, unit]: ["1.2", "MiB"]. */
export function bytesParts(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (n >= 1023.5 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  return [at > 0 && n < 99.95 ? n.toFixed(1) : count(n), units[at]];
}

export function bytes(n) {
  return bytesParts(n).join(THIN);
}

/** 35 %, at most 99 %: for shares below 1. */
export function percent(share) {
  return `${Math.min(99, Math.round(share * 100))}${THIN}%`;
}

/** A duration in milliseconds, in at most two units: 3 d 4 h, 12 min, 4.2 s. */
export function span(ms) {
  const s = ms / 1000;
  if (s < 9.95) return `${s < 0.95 ? s.toFixed(2) : s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  const steps = [
    [86400, "d", 3600, "h"],
    [3600, "h", 60, "min"],
    [60, "min", 1, "s"],
  ];
  const [big, unit, small, smaller] = steps.find(([size]) => s >= size);
  const rest = Math.floor((s % big) / small);
  return `${Math.floor(s / big)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
}

/** A latency: 0.42 ms, 12 ms, 1.2 s. */
export function milliseconds(ms) {
  if (ms === 0) return `0${THIN}ms`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(1)}${THIN}s`;
  return `${ms < 0.995 ? ms.toFixed(2) : ms < 9.95 ? ms.toFixed(1) : count(ms)}${THIN}ms`;
}

const two = (n) => String(n).padStart(2, "0");

/** The time of day in the browser's time zone, 24 hours. */
export function clock(time) {
  const at = new Date(time);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** 2026-11-24 */
export function date(time) {
  const at = new Date(time);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** 2026-11-24 16:03:59 */
export function moment(time) {
  return `${date(time)} ${clock(time)}`;
}

/** 16:03:59, with the date if it differs from that of `now`. */
export function when(time, now) {
  return date(time) === date(now) ? clock(time) : moment(time);
}

/** 1 server, 2 servers */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}
