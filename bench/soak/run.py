#!/usr/bin/env python3
"""Runs a balancer for long under mixed load, and checks that nothing leaks. Run by `make soak`.

    bench/soak/run.py [--binary FILE] [--minutes N] [--rate N] [--out DIR] [--image FILE]

The load: connections over mTLS and plain TCP, short, long, streams, half-closed, reset, without
a certificate, over a rate limit. Meanwhile the configuration is reloaded, clients are revoked,
servers die and return, the server file changes, and the first processes are upgraded. At the end
of each cycle the load pauses, and all connections must be accounted for: the access log has as
many records as clients made connections, the metrics have the same sums, and nothing is open.

Exit code 1 if a connection is not accounted for, or memory, descriptors or threads grow. All
traffic stays on loopback; when run as root, in a new network namespace. Needs Python 3.9.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

from balancer import FOUND_SERVERS, STATIC_SERVERS, Balancer, Pki, total, usage, wait_until
from figures import Sample, slope, write_csv, write_svg
from load import Clients, EchoServer, agrees

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from namespace import enter_namespace  # noqa: E402

UPGRADES = 3


class Soak:
    def __init__(self, options, directory):
        self.seconds = options.minutes * 60
        # The newest process runs for at least five of eight cycles, since upgrades are in the first.
        self.cycles = max(8, min(16, int(options.minutes / 5)))
        self.pki = Pki(options.binary, directory / "pki")
        self.servers = {name: EchoServer(port) for name, port in {**STATIC_SERVERS, **FOUND_SERVERS}.items()}
        self.balancer = Balancer(options.binary, directory, self.pki)
        self.clients = Clients(self.pki, options.rate, options.long)
        self.start = time.monotonic()
        self.samples, self.upgrades, self.failures = [], [], []
        self.events = Counter()
        self.revocations = []
        self.done = threading.Event()
        # What the newest process had counted, and the access log had, when it was alone.
        self.base = None

    def fail(self, text):
        print(f"FAILED: {text}", flush=True)
        self.failures.append(text)

    def sample(self, at_rest=0):
        status = self.balancer.status()
        pid = self.balancer.pid
        if status.get("pid") != pid:
            return
        rss, descriptors, threads, cpu = usage(pid)
        self.samples.append(Sample(
            time.monotonic() - self.start, pid, at_rest, rss, descriptors, threads, cpu,
            int(status["connections"]["open"]), len(status.get("old_processes") or [])))

    def observe(self):
        pause = max(0.5, self.seconds / 1500)
        while not self.done.wait(pause):
            if self.clients.active:
                try:
                    self.sample()
                except (OSError, KeyError, ValueError):
                    # The process was just replaced.
                    pass

    # --- Events ----------------------------------------------------------------

    def reload(self, number):
        self.balancer.reload(number)

    def revoke(self, number):
        self.revocations.append(self.clients.revoked_client(self.pki, number))

    def restart_server(self, number):
        name = list(STATIC_SERVERS)[number % len(STATIC_SERVERS)]
        self.servers[name].die()
        time.sleep(min(5, self.seconds / 100))
        self.servers[name].start()

    def change_members(self, number):
        names = list(FOUND_SERVERS)
        kept = names if number % 3 == 0 else [names[number % 2]]
        self.balancer.write_members({name: FOUND_SERVERS[name] for name in kept})

    def upgrade(self, _):
        self.balancer.upgrade()
        self.upgrades.append(time.monotonic() - self.start)

    def cycle(self, number):
        steps = [self.change_members, self.revoke, self.reload, self.restart_server, self.revoke,
                 self.reload, self.change_members]
        if number < UPGRADES:
            steps.insert(3, self.upgrade)
        pause = self.seconds / self.cycles / len(steps)
        self.clients.resume()
        for step in steps:
            due = time.monotonic() + pause
            name = step.__name__
            step(self.events[name])
            self.events[name] += 1
            time.sleep(max(0, due - time.monotonic()))
        self.rest(number)

    # --- Checks ----------------------------------------------------------------

    def rest(self, number):
        """Lets all connections end, and checks that each is accounted for."""
        self.clients.pause()
        balancer = self.balancer
        wait_until(lambda: "pid" in (s := balancer.status()) and not s.get("old_processes"), "the end of old processes")
        made = len(self.clients.visits)
        try:
            wait_until(lambda: balancer.lines() == made, "the access log", 20)
        except SystemExit:
            self.fail(f"cycle {number + 1}: {made} connections made, {balancer.lines()} records")
        open_now = {}
        for name in ("leastconn_connections_active", "leastconn_handshakes_active",
                     "leastconn_server_connections_active", "leastconn_client_connections_active"):
            try:
                wait_until(lambda: total(balancer.metrics(), name) == 0, name, 20)
            except SystemExit:
                open_now[name] = total(balancer.metrics(), name)
        if open_now:
            self.fail(f"cycle {number + 1}: open at rest: {open_now}")
        self.compare_counters(number, balancer.metrics(), made)
        self.sample(at_rest=1)
        last = self.samples[-1]
        print(f"cycle {number + 1:2} of {self.cycles}: {made} connections, pid {last.pid}, at rest: "
              f"{last.rss_kib / 1024:.1f} MiB, {last.descriptors} descriptors, {last.threads} threads", flush=True)
        balancer.rotate_log()

    def compare_counters(self, number, metrics, made):
        """Compares the counters of the newest process with the records since it is alone."""
        counted = total(metrics, "leastconn_connections_total")
        if total(metrics, "leastconn_access_log_lines_lost_total"):
            self.fail(f"cycle {number + 1}: lines of the access log are lost")
        if number < UPGRADES:
            self.base = (counted, made)
        elif counted - self.base[0] != made - self.base[1]:
            self.fail(f"cycle {number + 1}: {counted - self.base[0]:.0f} connections counted, {made - self.base[1]} made")

    def compare_records(self):
        """Compares each connection with its record in the access log."""
        records, visits = {}, {}
        for record in self.balancer.records():
            key = (record["listener"], int(record["source"].rsplit(":", 1)[1]))
            records.setdefault(key, []).append(record)
        for visit in self.clients.visits:
            visits.setdefault((visit.listener, visit.port), []).append(visit)
        table = Counter()
        wrong = []
        for key in visits.keys() | records.keys():
            theirs = sorted(visits.get(key, []), key=lambda visit: visit.time)
            ours = sorted(records.get(key, []), key=lambda record: record["time"])
            if len(theirs) != len(ours):
                wrong.append(f"{len(theirs)} connections and {len(ours)} records of {key}")
            for visit, record in zip(theirs, ours):
                table[visit.kind, visit.result, record["outcome"]] += 1
                if not agrees(visit, record["outcome"]):
                    wrong.append(f"{visit} has the record {record}")
        for text in wrong[:10]:
            self.fail(text)
        if len(wrong) > 10:
            self.fail(f"{len(wrong) - 10} more of these")
        print("\nclient       saw       logged as            connections")
        for (kind, result, outcome), count in sorted(table.items()):
            print(f"{kind:12} {result:9} {outcome:20} {count:11}")

    def report(self, out, image):
        newest = [s for s in self.samples if s.pid == self.balancer.pid]
        # The first part of the load fills caches and pools.
        warm = newest[0].seconds + 0.2 * (newest[-1].seconds - newest[0].seconds)
        loaded = [s for s in newest if not s.at_rest and s.seconds >= warm]
        rests = [s for s in newest if s.at_rest]
        minutes = (loaded[-1].seconds - loaded[0].seconds) / 60
        print(f"\nslopes of the newest process over {minutes:.1f} minutes, {len(loaded)} samples under load, {len(rests)} at rest")
        # Under load, descriptors follow the number of open connections, and connections take longer
        # when the machine is busy.
        for name, unit, samples in [("rss_kib", "KiB", loaded), ("descriptors", "", rests), ("threads", "", loaded)]:
            fit = slope([s.seconds for s in samples], [getattr(s, name) for s in samples])
            print(f"{name:12} mean {fit.mean:9.1f} {unit:3}  {fit.value:+9.2f} ± {fit.error:.2f} per hour: {fit.verdict()}")
            if fit.verdict() == "grows":
                self.fail(f"{name} grows")
        share = (newest[-1].cpu_seconds - newest[0].cpu_seconds) / (newest[-1].seconds - newest[0].seconds)
        print(f"CPU          {100 * share:.1f} % of a core")
        write_csv(out / "soak.csv", self.samples)
        subtitle = (f"{self.samples[-1].seconds / 60:.0f} minutes, {len(self.clients.visits):,} connections; dots: load paused; "
                    "dashed lines: upgrades; make soak")
        for path in [out / "soak.svg", *([image] if image else [])]:
            write_svg(path, self.samples, self.upgrades, subtitle)
        print(f"written: {out}/soak.csv, {out}/soak.svg")

    def run(self, out, image):
        print(f"soak: {self.seconds / 60:g} minutes in {self.cycles} cycles, {datetime.now():%F %T}", flush=True)
        threading.Thread(target=self.observe, daemon=True).start()
        try:
            for number in range(self.cycles):
                self.cycle(number)
        finally:
            self.done.set()
        reloads = self.balancer.reloads()
        if reloads["rejected"]:
            self.fail(f"{reloads['rejected']:.0f} reloads were rejected")
        for pid, code in self.balancer.stop().items():
            if code != 0:
                self.fail(f"process {pid} ended with {code}")
        for error in self.clients.errors[:10]:
            self.fail(f"client: {error}")
        slowest = max(self.revocations)
        if slowest > 5:
            self.fail(f"a revoked client was disconnected after {slowest:.1f} s")
        self.compare_records()
        print("\nevents:", ", ".join(f"{count} × {name}" for name, count in self.events.items()))
        print(f"revoked clients were disconnected after {slowest:.2f} s or less")
        self.report(out, image)
        print("FAILED" if self.failures else "all connections are accounted for")
        return 1 if self.failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/leastconn-lb", help="path of the balancer")
    parser.add_argument("--minutes", type=float, default=10, help="duration, default 10")
    parser.add_argument("--rate", type=float, default=20, help="new connections per second, default 20")
    parser.add_argument("--long", type=int, default=16, help="long connections at a time, default 16")
    parser.add_argument("--out", type=Path, default=Path("target/soak"), help="directory of soak.csv and soak.svg")
    parser.add_argument("--image", type=Path, help="also write the plot here, such as docs/images/soak.svg")
    options = parser.parse_args()
    options.binary = str(Path(options.binary).resolve())
    if not os.access(options.binary, os.X_OK):
        raise SystemExit(f"{options.binary} does not exist; run make build first")
    enter_namespace()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        soak = Soak(options, Path(directory))
        try:
            return soak.run(options.out, options.image)
        finally:
            soak.balancer.kill()


if __name__ == "__main__":
    sys.exit(main())
