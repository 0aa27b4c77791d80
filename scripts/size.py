#!/usr/bin/env python3
"""Prints the size and the start-up time of the program, and compares them with
scripts/size-limits.json. Run by `make size`.

    size.py [--binary FILE] [--runs N]

| value            | meaning                                                                           |
|------------------|-----------------------------------------------------------------------------------|
| stripped_bytes   | size of the file without symbols and debugging information                        |
| text_bytes       | code and read-only data, as size(1) prints it                                     |
| ready_ms         | from the start of the process to the answer 200 of /readyz: it listens by then    |
| version_ms       | duration of `leastconn-lb --version`                                              |

Times are medians. The configuration has one mutual TLS listener, one server and one rule. Exit code 1
if a limit is exceeded. Needs strip and size (binutils).
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = Path(__file__).with_name("size-limits.json")


def sizes(binary, directory):
    """Returns the size of the stripped file, and of its text."""
    copy = directory / "stripped"
    subprocess.run(["strip", "-o", str(copy), binary], check=True)
    lines = subprocess.run(["size", str(copy)], check=True, capture_output=True, text=True).stdout.splitlines()
    return copy.stat().st_size, int(lines[1].split()[0])


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def is_ready(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/1.0 200")
    except OSError:
        return False


def version_ms(binary):
    start = time.monotonic()
    subprocess.run([binary, "--version"], check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - start) * 1000


def ready_ms(binary, config, port):
    start = time.monotonic()
    process = subprocess.Popen([binary, "run", "--config", str(config)], stderr=subprocess.DEVNULL)
    try:
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > start + 30:
                sys.exit(f"{binary} does not start")
            time.sleep(0.0005)
        return (time.monotonic() - start) * 1000
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/leastconn-lb")
    parser.add_argument("--runs", type=int, default=25)
    options = parser.parse_args()
    binary = str(Path(options.binary).resolve())
    if not os.access(binary, os.X_OK):
        sys.exit(f"{options.binary} does not exist; run make build first")
    limits = json.loads(LIMITS.read_text())
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        for arguments in (["init"], ["issue", "--server", "--cn", "localhost", "--out", "server"]):
            subprocess.run([binary, "pki", *arguments, temporary], check=True, stdout=subprocess.DEVNULL)
        port = free_port()
        config = directory / "leastconn.toml"
        config.write_text(f"""
log = {{ access = "off" }}
admin = {{ bind = "127.0.0.1:{port}" }}
listener = [{{ name = "main", bind = "127.0.0.1:0", upstream = "web", tls = {{ cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl" }} }}]
upstream = [{{ name = "web", servers = ["127.0.0.1:1"], health_check = {{ type = "none" }} }}]
client = [{{ name = "client1", match = {{ cn = "client1" }}, allow = ["web"] }}]
""")
        stripped_bytes, text_bytes = sizes(binary, directory)
        runs = range(options.runs)
        measured = {
            "stripped_bytes": stripped_bytes,
            "text_bytes": text_bytes,
            "ready_ms": round(statistics.median(ready_ms(binary, config, port) for _ in runs), 1),
            "version_ms": round(statistics.median(version_ms(binary) for _ in runs), 1),
        }
    failed = False
    for name, value in measured.items():
        exceeded = value > limits[name]
        failed |= exceeded
        print(f"{name:15} {value:>12}   limit {limits[name]:>12}{'   EXCEEDED' if exceeded else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
