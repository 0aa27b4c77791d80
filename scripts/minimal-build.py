#!/usr/bin/env python3
"""Tests a leastconn-lb that was built without cargo features, and prints its size beside that of
the full build. Run by `make size`.

    minimal-build.py MINIMAL_BINARY [FULL_BINARY]

Runs examples/minimal.toml with generated certificates and free ports: `check`, a mutual TLS client, a
client without a certificate, `ctl status`, the metrics and a drain. `demo`, `top` and the dashboard
must answer that this build does not include them. Needs strip (binutils) and the openssl of Python.
"""

import http.server
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "minimal.toml"
TIMEOUT = 30
PAGE = b"served by app\n"


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


def expect(condition, text):
    if not condition:
        sys.exit(f"minimal-build: {text}")


def run(binary, *arguments, code=0):
    """Runs a command and returns standard output and standard error together."""
    result = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT)
    output = result.stdout + result.stderr
    expect(result.returncode == code, f"{arguments} exited with {result.returncode}, expected {code}:\n{output}")
    return output


def stripped_megabytes(binary, directory):
    copy = directory / "stripped"
    subprocess.run(["strip", "-o", str(copy), binary], check=True)
    return copy.stat().st_size / 1e6


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def request(port, context):
    """Requests / through the balancer and returns the response. Raises OSError if TLS fails."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        with context.wrap_socket(connection, server_hostname="localhost") as stream:
            stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
            response = b""
            while block := stream.recv(4096):
                response += block
            return response


def status_code(url):
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_missing_commands(binary):
    for command in ("demo", "top"):
        for arguments in ([command], [command, "--help"], [command, "--seconds", "1"]):
            output = run(binary, *arguments, code=2)
            sentence = f"this build does not include the command `{command}`"
            expect(output.count("\n") == 1 and sentence in output, f"{arguments} printed:\n{output}")
    usage = run(binary, "--help")
    expect("Built without: dashboard, demo, top" in usage, f"--help does not list the features:\n{usage}")
    expect(not re.search(r"^  (demo|top)\b", usage, re.M), f"--help lists a missing command:\n{usage}")


def test_balancer(binary, directory):
    for directory_name in ("ca", "server"):
        (directory / "certs" / directory_name).mkdir(parents=True)
    authority = directory / "certs" / "ca"
    run(binary, "pki", "init", authority)
    run(binary, "pki", "issue", "--server", "--cn", "localhost", "--out", "server", authority)
    run(binary, "pki", "issue", "--cn", "client1.lb.com", "--out", "client", authority)
    shutil.copy(authority / "server.crt", directory / "certs" / "server" / "server.crt")
    shutil.copy(authority / "server.key", directory / "certs" / "server" / "server.key.pem")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, admin_port = free_port(), free_port()
    text = EXAMPLE.read_text()
    for old, new in (("0.0.0.0:9443", f"127.0.0.1:{port}"), ("127.0.0.1:8081", f"127.0.0.1:{server.server_port}")):
        expect(text.count(old) == 1, f"{EXAMPLE.name} does not contain {old} once")
        text = text.replace(old, new)
    (directory / "examples").mkdir()
    config = directory / "examples" / "leastconn.toml"
    control = directory / "leastconn.sock"
    config.write_text(f'{text}\n[admin]\nbind = "127.0.0.1:{admin_port}"\nsocket = "{control}"\n')
    run(binary, "check", "--config", config)

    log = directory / "log"
    with log.open("w") as output:
        balancer = subprocess.Popen([binary, "run", "--config", str(config)], stdout=output, stderr=output)
    try:
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                if status_code(f"http://127.0.0.1:{admin_port}/readyz")[0] == 200:
                    break
            except OSError:
                pass
            expect(balancer.poll() is None and time.monotonic() < end, f"run does not start:\n{log.read_text()}")
            time.sleep(0.02)
        context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
        try:
            response = request(port, context)
            expect(PAGE not in response, "a client without a certificate was served")
        except OSError:
            pass
        context.load_cert_chain(authority / "client.crt", authority / "client.key")
        response = request(port, context)
        expect(response.endswith(PAGE), f"the client received {response!r}")
        status = run(binary, "ctl", "--socket", control, "status")
        code, body = status_code(f"http://127.0.0.1:{admin_port}/")
        expect(code == 404 and "built without the dashboard" in body, f"/ answered {code}: {body}")
        code, body = status_code(f"http://127.0.0.1:{admin_port}/metrics")
        expect(code == 200 and "leastconn_" in body, f"/metrics answered {code}")
    finally:
        balancer.send_signal(signal.SIGTERM)
        code = balancer.wait(TIMEOUT)
        server.shutdown()
    expect(code == 0, f"run exited with {code} after SIGTERM:\n{log.read_text()}")
    return status


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    binaries = [str(Path(name).resolve()) for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        for name, binary in zip(("without cargo features", "all cargo features"), binaries):
            print(f"stripped, {name:22} {stripped_megabytes(binary, directory):>6.1f} MB")
        test_missing_commands(binaries[0])
        test_balancer(binaries[0], directory)
    print("the build without cargo features works: check, run, a mutual TLS client, ctl status")


if __name__ == "__main__":
    main()
