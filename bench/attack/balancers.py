"""Starts the attacked balancers: leastconn, and nginx and HAProxy if installed."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path


def free_port(host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as s:
        s.bind((host, 0))
        return s.getsockname()[1]


class EchoServer:
    """Runs an echo server with one thread per connection."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass


def cpu_seconds(pid):
    """Returns the CPU time of all running threads of a process and of its children."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
        children = (task / "children").read_text().split()
        total += sum(int(cpu_seconds(child) * 1e9) for child in children)
    return total / 1e9


def memory(pid):
    """Returns the resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


class Balancer:
    """A balancer that listens on `port`. Leaving the `with` block stops it."""

    def __init__(self, kind, command, port, directory: Path, host="127.0.0.1"):
        self.kind, self.port, self.host = kind, port, host
        self.log = directory / f"{kind}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((host, port), timeout=1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    self.process.wait()
                    raise SystemExit(f"{kind} does not start:\n{self.log.read_text()}")
                time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self):
        return cpu_seconds(self.process.pid)


def leastconn(binary, directory: Path, pki: Path, upstream, *, tls=True, host="127.0.0.1", listener="", rule="", process=""):
    port = free_port(host)
    bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    files = {key: str(pki / file) for key, file in [("cert", "server.crt"), ("key", "server.key"), ("client_ca", "ca.crt")]}
    tls_line = "tls = { %s }" % ", ".join(f'{k} = "{v}"' for k, v in files.items()) if tls else ""
    match = '{ cn = "client" }' if tls else '{ source = ["::/0", "0.0.0.0/0"] }'
    (directory / "leastconn.toml").write_text(f"""
[process]
workers = 2
{process}
[log]
access = "{directory}/access.log"
[[listener]]
name = "main"
bind = "{bind}"
upstream = "echo"
{tls_line}
{listener}
[[upstream]]
name = "echo"
health_check = {{ type = "none" }}
servers = ["127.0.0.1:{upstream}"]
[[client]]
name = "all"
match = {match}
allow = ["echo"]
{rule}
""")
    command = [binary, "run", "--config", str(directory / "leastconn.toml")]
    return Balancer("leastconn", command, port, directory, host)


def nginx(directory: Path, pki: Path, upstream):
    port = free_port()
    modules = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    load = f"load_module {modules};" if modules.exists() else ""
    (directory / "nginx.conf").write_text(f"""
{load}
daemon off; worker_processes 2; pid {directory}/nginx.pid; error_log {directory}/nginx-errors.log;
events {{ worker_connections 4096; }}
stream {{ server {{
  listen 127.0.0.1:{port} ssl; proxy_pass 127.0.0.1:{upstream};
  ssl_certificate {pki}/server.crt; ssl_certificate_key {pki}/server.key;
  ssl_client_certificate {pki}/ca.crt; ssl_verify_client on; ssl_verify_depth 9;
}} }}
""")
    return Balancer("nginx", ["nginx", "-c", str(directory / "nginx.conf")], port, directory)


def haproxy(directory: Path, pki: Path, upstream):
    port = free_port()
    (directory / "haproxy.cfg").write_text(f"""
global
  nbthread 2
defaults
  mode tcp
  timeout client 60s
  timeout server 60s
  timeout connect 5s
listen main
  bind 127.0.0.1:{port} ssl crt {pki}/server.pem ca-file {pki}/ca.crt verify required
  server echo 127.0.0.1:{upstream}
""")
    return Balancer("haproxy", ["haproxy", "-f", str(directory / "haproxy.cfg")], port, directory)


def peers(directory: Path, pki: Path, upstream):
    """Returns the functions that start the installed peers."""
    found = []
    if shutil.which("nginx") and Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        found.append(lambda: nginx(directory, pki, upstream))
    if shutil.which("haproxy"):
        found.append(lambda: haproxy(directory, pki, upstream))
    return found
