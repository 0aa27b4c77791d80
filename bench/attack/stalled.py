"""Handshakes from very many sources that stall after the ClientHello.

Measures how long new clients wait during the attack. The sources are 250 addresses of
127.0.0.0/8, or the /64s of an IPv6 /48, which requires a network namespace.
"""

import random
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import balancers
import certificates as c

LIMIT_MS = 200.0


def client_hello():
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def flood(balancer, sources, rate, stop, opened):
    """Opens `rate` connections per second, and sends a ClientHello on each."""
    hello = client_hello()
    start = time.monotonic()
    while not stop.is_set():
        due = int((time.monotonic() - start) * rate)
        while len(opened) < due and not stop.is_set():
            source = sources(len(opened))
            try:
                connection = socket.create_connection((balancer.host, balancer.port), 5, (source, 0))
                connection.sendall(hello)
            except OSError:
                connection = None
            opened.append(connection)
        time.sleep(0.002)


def newcomer(balancer, context, source):
    start = time.monotonic()
    with socket.create_connection((balancer.host, balancer.port), 20, (source, 0)) as tcp:
        with context.wrap_socket(tcp, server_hostname="localhost") as tls:
            tls.sendall(b"hello")
            if tls.recv(100) != b"hello":
                raise SystemExit("the newcomer got no echo")
    return (time.monotonic() - start) * 1000


def attack(balancer, context, sources, source, rate, seconds):
    stop, opened = threading.Event(), []
    thread = threading.Thread(target=flood, args=(balancer, sources, rate, stop, opened), daemon=True)
    before = balancers.memory(balancer.process.pid)
    thread.start()
    waits = []
    end = time.monotonic() + seconds
    time.sleep(min(3, seconds / 3))
    try:
        while time.monotonic() < end:
            waits.append(newcomer(balancer, context, source))
            time.sleep(0.1)
        grown = balancers.memory(balancer.process.pid) - before
    finally:
        stop.set()
        thread.join()
        count = len(opened)
        for connection in opened:
            if connection is not None:
                connection.close()
    waits.sort()
    return waits, count, grown


def run(binary, directory: Path, seconds):
    pki = directory / "pki"
    c.make_pki(pki)
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.load_cert_chain(pki / "client.crt", pki / "client.key")
    upstream = balancers.EchoServer().port
    cases = [("250 IPv4 addresses", "127.0.0.1", lambda n: f"127.9.{n % 250}.1", "127.8.0.1")]
    try:
        # Make all addresses of the network local, so that the attack can use them as sources.
        for command in ["ip -6 route add local 2001:db8::/32 dev lo", "ip -6 addr add 2001:db8:ffff::1/128 dev lo"]:
            subprocess.run(command.split(), check=True, capture_output=True)
        Path("/proc/sys/net/ipv6/ip_nonlocal_bind").write_text("1")
        network = lambda n: f"2001:db8:1:{random.randrange(1 << 16):x}::{n % 60000 + 1:x}"
        cases.append(("/64s of one IPv6 /48", "2001:db8:ffff::1", network, "2001:db8:2::1"))
    except (OSError, subprocess.CalledProcessError):  # Not root, or no IPv6.
        print("  left out: IPv6, which needs a network namespace (make attack as root makes one)")
    failures = []
    for title, host, sources, source in cases:
        for rate in (40, 300):
            with balancers.leastconn(binary, directory, pki, upstream, host=host) as balancer:
                quiet = max(newcomer(balancer, context, source) for _ in range(10))
                waits, count, grown = attack(balancer, context, sources, source, rate, seconds)
            print(f"  {title}, {rate}/s: {count} stalled, {grown / 1024 / max(count, 1):.0f} KiB each; newcomers: "
                  f"median {waits[len(waits) // 2]:.0f} ms, longest {waits[-1]:.0f} ms of {len(waits)} (quiet: {quiet:.0f} ms)")
            # Add the latency without an attack, which is high on a busy machine.
            if waits[-1] > LIMIT_MS + quiet:
                failures.append(f"{title}, {rate}/s: a newcomer waited {waits[-1]:.0f} ms")
    return failures
