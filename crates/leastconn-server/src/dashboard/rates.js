// Rates of polled counters over the last ten seconds, so that one late response does not
// cause a jump.

/** Age of the oldest counter value that is used, milliseconds. */
const WINDOW = 11_000;

export class Rates {
  #readings = new Map();

  /** Adds readings. `now` is in milliseconds, `counters` are pairs of key and count. Counters
   * with other keys are forgotten. */
  update(now, counters) {
    const next = new Map();
    for (const [key, count] of counters) {
      const before = this.#readings.get(key) ?? [];
      // A counter that decreased was reset by a restart.
      const kept = before.filter(([at, was]) => now - at <= WINDOW && at < now && was <= count);
      next.set(key, [...kept, [now, count]]);
    }
    this.#readings = next;
  }

  /** The rate of the counter `key` per second. */
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
