"""Starts, reloads, upgrades and observes the balancer of the soak test."""

import ctypes
import http.client
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

TLS_PORT, PLAIN_PORT, ADMIN_PORT = 9443, 9080, 9901
STATIC_SERVERS = {"web1": 8081, "web2": 8082, "web3": 8083}
FOUND_SERVERS = {"web4": 8084, "web5": 8085}
PR_SET_CHILD_SUBREAPER = 36


def wait_until(condition, what, seconds=60):
    """Calls `condition` until it returns a true value, and returns that value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise SystemExit(f"soak: waited {seconds} s in vain for: {what}")
        time.sleep(0.05)


class Pki:
    """The CA of the soak test, made with the program's own `pki` command."""

    def __init__(self, binary, directory: Path):
        self.binary, self.directory = binary, directory
        self.run("init", directory)
        self.run("issue", "--server", "--cn", "localhost", "--ip", "127.0.0.1", "--out", "server", directory)

    def run(self, *arguments):
        subprocess.run([self.binary, "pki", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

    def issue(self, name):
        """Returns the paths of the certificate and key of a new client."""
        self.run("issue", "--client", "--cn", name, "--out", name, self.directory)
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    def revoke(self, certificate):
        self.run("revoke", self.directory, certificate)


class Balancer:
    def __init__(self, binary, directory: Path, pki: Pki):
        self.directory, self.pki = directory, pki
        self.config = directory / "leastconn.toml"
        self.log = directory / "access.log"
        self.rotations = 0
        self.write_members(FOUND_SERVERS)
        self.write_config(0)
        # Processes of upgrades become children of this one, so that their exit codes are seen.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with open(directory / "messages.log", "ab") as messages:
            command = [binary, "run", "--config", str(self.config)]
            self.first = subprocess.Popen(command, stdout=messages, stderr=messages)
        self.pid = self.first.pid
        self.pids = [self.pid]
        try:
            wait_until(lambda: self.status().get("phase") == "ready", "the balancer is ready", 20)
        except SystemExit:
            print((directory / "messages.log").read_text())
            raise

    def write_config(self, number):
        """Writes the configuration. An odd `number` changes weights, limits, rules and an upstream."""
        odd = number % 2
        servers = ", ".join(
            f'{{ name = "{name}", address = "127.0.0.1:{port}", weight = {1 + odd} }}'
            for name, port in STATIC_SERVERS.items()
        )
        extra = """
[[upstream]]
name = "temporary"
servers = ["127.0.0.1:8081"]
[[client]]
name = "temporary"
match = { cn = "temporary" }
allow = ["temporary"]
""" if odd else ""
        tls = ", ".join(f'{key} = "{self.pki.directory}/{file}"' for key, file in [
            ("cert", "server.crt"), ("key", "server.key"), ("client_ca", "ca.crt"), ("crl", "ca.crl")])
        new = self.config.with_suffix(".new")
        new.write_text(f"""
[process]
workers = 2
drain_timeout = "30s"
[log]
access = "{self.log}"
[admin]
bind = "127.0.0.1:{ADMIN_PORT}"
[[listener]]
name = "mtls"
bind = "127.0.0.1:{TLS_PORT}"
upstream = "web"
tls = {{ {tls} }}
[[listener]]
name = "plain"
bind = "127.0.0.1:{PLAIN_PORT}"
upstream = "web"
[[upstream]]
name = "web"
health_check = {{ type = "tcp", interval = "1s", timeout = "1s", rise = 2, fall = 2 }}
servers = [{servers}, {{ file = "members.json" }}]
[upstream.discovery]
refresh = "1s"
hold = "2s"
[[client]]
name = "limited"
match = {{ cn = "limited" }}
allow = ["web"]
rate_limit = {{ rate = {1 + odd}, burst = 2 }}
[[client]]
name = "clients"
match = {{ cn = ["client", "*.revoked"] }}
allow = ["web"]
[[client]]
name = "local"
match = {{ source = ["127.0.0.0/8"] }}
allow = ["web"]
{extra}""")
        new.rename(self.config)

    def write_members(self, servers):
        entries = [{"name": name, "address": f"127.0.0.1:{port}"} for name, port in servers.items()]
        new = self.directory / "members.new"
        new.write_text(json.dumps({"servers": entries}))
        new.rename(self.directory / "members.json")

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", ADMIN_PORT, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            # The admin address moves to the new process during an upgrade.
            return ""
        finally:
            connection.close()

    def status(self):
        return json.loads(self.get("/api/v1/status") or "{}")

    def metrics(self):
        """Returns the value of each series by its name and labels, and "" by the name alone the sum."""
        text = wait_until(lambda: self.get("/metrics"), "metrics")
        values = {}
        for line in text.splitlines():
            if line.startswith("#") or not line:
                continue
            series, value = line.rsplit(" ", 1)
            values[series] = float(value)
        return values

    def reloads(self):
        return {
            outcome: self.metrics().get(f'leastconn_config_reloads_total{{outcome="{outcome}"}}', 0)
            for outcome in ("applied", "rejected")
        }

    def reload(self, number):
        before = self.reloads()["applied"]
        self.write_config(number)
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: self.reloads()["applied"] > before, "a reload")

    def upgrade(self):
        old = self.pid
        os.kill(old, signal.SIGUSR2)
        status = wait_until(
            lambda: (s := self.status()).get("pid", old) != old and s.get("phase") == "ready" and s, "an upgrade")
        self.pid = status["pid"]
        self.pids.append(self.pid)

    def rotate_log(self):
        self.rotations += 1
        self.log.rename(f"{self.log}.{self.rotations}")
        os.kill(self.pid, signal.SIGUSR1)
        wait_until(self.log.exists, "a new access log")

    def records(self):
        """Returns all records of the access log as dictionaries."""
        found = []
        for path in [*self.directory.glob("access.log.*"), self.log]:
            with open(path, encoding="utf-8") as file:
                found += [json.loads(line) for line in file]
        return found

    def lines(self):
        """Returns the number of records, without parsing them."""
        return sum(path.read_bytes().count(b"\n") for path in self.directory.glob("access.log*"))

    def stop(self):
        """Ends the newest process, and returns the exit codes of all processes."""
        os.kill(self.pid, signal.SIGTERM)
        codes = {self.first.pid: self.first.wait()}
        for pid in self.pids[1:]:
            _, status = os.waitpid(pid, 0)
            codes[pid] = os.waitstatus_to_exitcode(status)
        return codes

    def kill(self):
        """Ends what is still running after a failure."""
        for pid in self.pids:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


def total(metrics, name):
    """Returns the sum of the series of a metric."""
    return sum(value for series, value in metrics.items() if re.split("[{ ]", series)[0] == name)


def usage(pid):
    """Returns memory in KiB, descriptors, threads and CPU seconds of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(re.search(r"VmRSS:\s+(\d+)", status).group(1))
    threads = int(re.search(r"Threads:\s+(\d+)", status).group(1))
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return rss, descriptors, threads, cpu
