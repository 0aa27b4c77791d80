"""Transfers data through a balancer in a lossy network, in both directions at once.

Usage: lossy_network.py PROGRAM. Run by lossy_network.rs in a network namespace.
"""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

PROGRAM = sys.argv[1]
SIZE = 256 * 1024
TLS, PLAIN, ADMIN, SERVER = 9443, 9080, 9901, 8080


def serve(connection):
    """Echoes until the client has finished."""
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def transfer(context, data, results):
    try:
        stream = socket.create_connection(("127.0.0.1", TLS if context else PLAIN), timeout=50)
        if context:
            stream = context.wrap_socket(stream, server_hostname="localhost")
        received = bytearray()
        for start in range(0, SIZE, 32768):
            part = data[start : start + 32768]
            stream.sendall(part)
            while len(received) < start + len(part):
                received += stream.recv(65536) or sys.exit("the connection ended early")
        if context:
            stream.unwrap()
        else:
            stream.shutdown(socket.SHUT_WR)
            assert stream.recv(1) == b"", "more bytes than were sent"
        stream.close()
        results.append(received == data)
    except Exception as error:
        results.append(repr(error))


def get(path):
    return urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}{path}", timeout=10).read()


def wait(condition, what):
    deadline = time.monotonic() + 40
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.1)


def main(directory):
    def pki(*arguments):
        subprocess.run([PROGRAM, "pki", *arguments], check=True, stdout=subprocess.DEVNULL)

    pki("init", str(directory))
    pki("issue", "--server", "--cn", "localhost", "--out", "server", str(directory))
    pki("issue", "--client", "--cn", "client", "--out", "client", str(directory))
    config = directory / "leastconn.toml"
    config.write_text(f"""
log = {{ access = "access.log" }}
admin = {{ bind = "127.0.0.1:{ADMIN}" }}
listener = [
  {{ name = "mtls", bind = "127.0.0.1:{TLS}", upstream = "web", tls = {{ cert = "server.crt", key = "server.key", client_ca = "ca.crt" }} }},
  {{ name = "plain", bind = "127.0.0.1:{PLAIN}", upstream = "web" }},
]
upstream = [{{ name = "web", servers = ["127.0.0.1:{SERVER}"], health_check = {{ type = "none" }} }}]
client = [
  {{ name = "client", match = {{ cn = "client" }}, allow = ["web"] }},
  {{ name = "local", match = {{ source = "127.0.0.0/8" }}, allow = ["web"] }},
]
""")
    listener = socket.create_server(("127.0.0.1", SERVER))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    balancer = subprocess.Popen([PROGRAM, "run", "--config", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait(lambda: get("/readyz"), "the balancer")
        context = ssl.create_default_context(cafile=directory / "ca.crt")
        context.load_cert_chain(directory / "client.crt", directory / "client.key")
        results = []
        clients = [
            threading.Thread(target=transfer, args=(context if n % 2 else None, os.urandom(SIZE), results))
            for n in range(8)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        if results != [True] * 8:
            sys.exit(f"results: {results}")
        wait(lambda: json.loads(get("/api/v1/status"))["connections"]["open"] == 0, "the end of all connections")
        lines = (directory / "access.log").read_text().splitlines()
        outcomes = [json.loads(line)["outcome"] for line in lines]
        if outcomes != ["ok"] * 8:
            sys.exit(f"outcomes: {outcomes}")
        balancer.send_signal(signal.SIGTERM)
        if balancer.wait(20) != 0:
            sys.exit(f"the balancer ended with {balancer.returncode}")
        print("8 transfers, no connection left")
    finally:
        balancer.kill()


with tempfile.TemporaryDirectory() as temporary:
    main(Path(temporary))
