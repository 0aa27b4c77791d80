// Rates of counters that are read again and again: over the last ten seconds, so that
// one slow answer does not make them jump.

const OVER = 11_000;

export class Rates {
  #readings = new Map();

  /** `now` in milliseconds; `counters` as pairs of key and count. Forgets all others. */
  update(now, counters) {
    const next = new Map();
    for (const [key, count] of counters) {
      const before = this.#readings.get(key) ?? [];
      // A counter that went back is another's: the balancer was started anew.
      const kept = before.filter(([at, was]) => now - at <= OVER && at < now && was <= count);
      next.set(key, [...kept, [now, count]]);
    }
    this.#readings = next;
  }

  /** A second. */
  of(key) {
    const readings = this.#readings.get(key);
    if (!readings || readings.length < 2) return 0;
    const [[from, then], [to, now]] = [readings[0], readings[readings.length - 1]];
    return to > from ? ((now - then) * 1000) / (to - from) : 0;
  }

  forget() {
    this.#readings.clear();
  }
}
