"""Limits of clients that are identified by source address.

An IPv6 /64 counts as one client. A client with very many addresses must not affect others.
"""

import socket
from pathlib import Path

import balancers
import certificates as c


def connect_as(balancer, source):
    """Connects with a PROXY header for `source`. Returns None if the connection is refused."""
    connection = socket.create_connection(("127.0.0.1", balancer.port), 10)
    header = f"PROXY TCP6 {source} 2001:db8:ffff::1 4660 443\r\nhello"
    try:
        connection.sendall(header.encode())
        if connection.recv(100) == b"hello":
            return connection
    except OSError:
        pass
    connection.close()
    return None


def run(binary, directory: Path, seconds):
    pki = directory / "pki"
    c.make_pki(pki)
    upstream = balancers.EchoServer().port
    header = 'proxy_protocol = "required"\nproxy_protocol_from = "127.0.0.0/8"'
    failures = []
    start = lambda rule: balancers.leastconn(binary, directory, pki, upstream, tls=False, listener=header, rule=rule)
    with start("max_conns = 5") as balancer:
        held = [connect_as(balancer, f"2001:db8:1:1::{n:x}") for n in range(1, 1001)]
        held = [connection for connection in held if connection]
        print(f"  one /64, max_conns = 5: {len(held)} of 1000 connections")
        if len(held) != 5:
            failures.append(f"one /64 has {len(held)} connections despite max_conns = 5")
        for connection in held:
            connection.close()
    with start("rate_limit = { rate = 0.001, burst = 1 }") as balancer:
        before = balancers.memory(balancer.process.pid)
        served = 0
        for n in range(int(seconds * 200)):
            connection = connect_as(balancer, f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::1")
            if connection is None:
                failures.append(f"source {n} of a full table was refused")
                break
            connection.close()
            served += 1
        grown = balancers.memory(balancer.process.pid) - before
        print(f"  {served} sources with a slow rate served, {grown / 1024:.0f} KiB more")
    return failures
