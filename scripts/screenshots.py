#!/usr/bin/env python3
"""Takes pictures of the dashboard of a running balancer, into target/screenshots.

    screenshots.py [--binary PATH] [--seconds N] [--servers N]... [--docs] [--serve]

Starts servers and a balancer on loopback, and makes connections for N seconds. Then it takes
pictures of the whole page with Chromium: at 390, 1280 and 1920 pixels, light and dark, with 0, 7
and 60 servers (--servers selects some of these). --docs also replaces the pictures in docs/images.
--serve prints the address of the dashboard and runs until Ctrl-C, without Chromium.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "target/screenshots"
WIDTHS = {390: 844, 1280: 800, 1920: 1080}

# Upstreams, and the number of servers of each.
SITES = {0: {"web": 0}, 7: {"web": 5, "db": 2}, 60: {"web": 40, "db": 12, "search": 8}}
# Client rules that match the source address, beside those that match a certificate.
SOURCES = {0: 0, 7: 12, 60: 288}
# The pictures in docs/images show these texts instead of the names of this machine.
EXAMPLES = {"host": "lb1.example.com", "file": "\u200e/etc/leastconn/leastconn.toml"}
EXAMPLE = """((id, text) => {
  const element = document.getElementById(id);
  element.textContent = text;
  Object.defineProperty(element, "textContent", { get: () => text, set() {} });
})(%s, %s)"""
# Clients that connect with a certificate, by the name of the rule.
PEOPLE = ["orders", "billing", "reports", "checkout", "search-indexer", "inventory"]


def source_of(n):
    """The source address of a client without a certificate."""
    return f"127.0.{n // 250 + 1}.{n % 250 + 1}"


class Server:
    """Answers each chunk with four times as many bytes."""

    def __init__(self, name):
        self.name = name
        self.listener = None

    async def start(self):
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=256)
        return self.listener.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                await asyncio.sleep(random.uniform(0, 0.01))
                writer.write(data * 4)
                await writer.drain()
        writer.close()


class Site:
    """A directory with keys and configuration, the servers, and the running balancer."""

    def __init__(self, binary, servers, directory):
        self.binary, self.directory, self.count = binary, Path(directory), servers
        self.upstreams = {
            name: [Server(f"{name}{n + 1}") for n in range(count)] for name, count in SITES[servers].items()
        }
        self.process = None
        self.ports = {}
        self.clients = []

    def run(self, *arguments):
        command = [self.binary, *arguments]
        return subprocess.run(command, cwd=self.directory, check=True, capture_output=True, text=True).stdout

    def ctl(self, *arguments):
        return self.run("ctl", "--socket", "lb.sock", *arguments)

    def keys(self):
        self.run("pki", "init", "pki", "--crl-days", "7")
        self.run("pki", "init", "other")
        self.run("pki", "issue", "pki", "--cn", "lb.example.com", "--server", "--out", "server", "--days", "90")
        for name in [*PEOPLE, "stranger", "revoked", "batch"]:
            self.run("pki", "issue", "pki", "--cn", f"{name}.example.com", "--client", "--out", name)
        self.run("pki", "issue", "other", "--cn", "orders.example.com", "--client", "--out", "untrusted")
        self.run("pki", "revoke", "pki", "pki/revoked.crt", "--days", "7")
        self.run("pki", "issue", "pki", "--cn", "db.example.com", "--server", "--out", "old", "--days", "4")

    async def configuration(self):
        tls = '{ cert = "pki/server.crt", key = "pki/server.key", client_ca = "pki/ca.crt", crl = "pki/ca.crl" }'
        lines = [
            '[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:0"\nsocket = "lb.sock"',
            f'[[listener]]\nname = "mtls"\nbind = "127.0.0.1:0"\nupstream = "web"\ntls = {tls}',
            '[[listener]]\nname = "internal"\nbind = "127.0.0.1:0"',
        ]
        for name, servers in self.upstreams.items():
            entries = []
            for n, server in enumerate(servers):
                port = await server.start()
                more = ""
                if name == "web" and n == 4:
                    more = ", max_conns = 60"
                if name == "web" and n == 3:
                    more = ", weight = 2"
                entries.append(f'{{ name = "{server.name}", address = "127.0.0.1:{port}"{more} }}')
            if not servers:
                (self.directory / "servers.json").write_text('{"servers": []}')
                entries = ['{ file = "servers.json" }']
            check = '{ type = "tcp", interval = "2s", fall = 1, rise = 1 }'
            lines.append(
                f'[[upstream]]\nname = "{name}"\nslow_start = "45s"\nhealth_check = {check}\nservers = [{", ".join(entries)}]'
            )
        for name in PEOPLE:
            lines.append(f'[[client]]\nname = "{name}"\nmatch = {{ cn = "{name}.example.com" }}\nallow = ["web"]')
        lines.append(
            '[[client]]\nname = "batch"\nmatch = { cn = "batch.example.com" }\nallow = ["web"]\n'
            "rate_limit = { rate = 0.5, burst = 2 }"
        )
        lines.append(
            '[[client]]\nname = "contractor"\nmatch = { cn = "contractor.example.com" }\nallow = ["web"]\n'
            "expires = 2026-01-31T00:00:00Z"
        )
        names = list(self.upstreams)
        for n in range(SOURCES[self.count]):
            limit = "max_conns = 40" if n % 3 == 0 else ""
            lines.append(
                f'[[client]]\nname = "host{n + 1:03}"\nmatch = {{ source = "{source_of(n)}" }}\n'
                f'allow = ["{names[n % len(names)]}"]\n{limit}'
            )
        (self.directory / "leastconn.toml").write_text("\n\n".join(lines) + "\n")

    async def start(self):
        self.keys()
        await self.configuration()
        messages = (self.directory / "messages.log").open("w")
        self.process = subprocess.Popen(
            [self.binary, "run", "--config", "leastconn.toml"], cwd=self.directory, stderr=messages
        )
        for _ in range(300):
            with contextlib.suppress(subprocess.CalledProcessError, KeyError):
                status = json.loads(self.ctl("status", "--json"))
                self.ports = {one["name"]: int(one["addresses"][0].rsplit(":", 1)[1]) for one in status["listeners"]}
                break
            await asyncio.sleep(0.1)
        else:
            raise SystemExit((self.directory / "messages.log").read_text())

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def tls(self, name, folder="pki"):
        context = ssl.create_default_context(cafile=self.directory / "pki/ca.crt")
        context.check_hostname = False
        place = self.directory / folder
        context.load_cert_chain(place / f"{name}.crt", place / f"{name}.key")
        return context

    async def client(self, listener, seconds, pause, **options):
        """Connects again and again, and exchanges data for about `seconds` each time."""
        while True:
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[listener], **options)
                try:
                    ends = time.monotonic() + random.expovariate(1 / seconds)
                    while True:
                        size = random.randrange(100, 4000)
                        writer.write(b"x" * size)
                        await reader.readexactly(4 * size)
                        if time.monotonic() > ends:
                            break
                        await asyncio.sleep(random.uniform(0.5, 3))
                finally:
                    writer.close()
            await asyncio.sleep(random.uniform(0.5, 1.5) * pause)

    def traffic(self):
        start = lambda *arguments, **options: self.clients.append(  # noqa: E731
            asyncio.create_task(self.client(*arguments, **options))
        )
        if self.count:
            per_client = 31 if self.count == 7 else 20
            for place, name in enumerate(PEOPLE):
                for _ in range(per_client - place):
                    start("mtls", 20, 0.5, ssl=self.tls(name))
            for n in range(SOURCES[self.count]):
                for _ in range(1 + (n * 7 % 11 == 0)):
                    start("internal", 30, 1, local_addr=(source_of(n), 0))
        for name, folder, pause in [
            ("batch", "pki", 1),
            ("stranger", "pki", 4),
            ("revoked", "pki", 7),
            ("untrusted", "other", 5),
        ]:
            start("mtls", 2, pause, ssl=self.tls(name, folder))

    def trouble(self):
        """Stops some servers, and drains one."""
        web = self.upstreams["web"]
        if len(web) < 5:
            return
        self.ctl("drain", "web/web2")
        for server in [web[2], *web[20:22]]:
            server.listener.close()
            server.listener = None


async def wait(seconds, text):
    for left in range(seconds, 0, -10):
        print(f"{text}: {left} s", flush=True)
        await asyncio.sleep(min(10, left))


class Browser:
    """Chromium, controlled with the DevTools protocol on file descriptors 3 and 4."""

    def __init__(self, program, directory):
        to_read, self.writing = os.pipe()
        self.reading, to_write = os.pipe()
        self.process = subprocess.Popen(
            [
                "bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "sh", program,
                "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-dev-shm-usage",
                "--disable-gpu", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--no-proxy-server", "--hide-scrollbars",
                f"--user-data-dir={directory}",
            ],
            pass_fds=[to_read, to_write],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.stream = os.fdopen(self.reading, "rb")
        self.last, self.session = 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writing, data):]
        while True:
            answer = json.loads(self.message())
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def message(self):
        parts = bytearray()
        while (byte := self.stream.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("Chromium ended")
            parts += byte
        return bytes(parts)

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression):
        for _ in range(300):
            if self.value(expression):
                return
            time.sleep(0.1)
        raise RuntimeError(f"not within 30 s: {expression}")

    def open(self, url, width, height, theme):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("Page.navigate", url=url)
        self.until("document.body?.dataset.shown")
        # Rates need a second round, and transitions must have finished.
        first = json.dumps(self.value("document.body.dataset.shown"))
        self.until(f"document.body.dataset.shown !== {first}")
        self.until("document.getAnimations().every((one) => one.playState === 'finished')")

    def picture(self, file, whole):
        width, height = self.value("[innerWidth, document.documentElement.scrollHeight]") if whole else (None, None)
        clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}} if whole else {}
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(answer["data"]))
        print(file.relative_to(ROOT), flush=True)

    def stop(self):
        self.process.kill()
        self.process.wait()


def pictures(browser, url, servers, docs):
    for width, height in WIDTHS.items():
        for theme in ["light", "dark"]:
            browser.open(url, width, height, theme)
            browser.picture(PICTURES / f"{servers}-servers-{width}-{theme}.png", whole=True)
    if docs:
        for name, width, height, theme in [
            ("light", 1440, 900, "light"),
            ("dark", 1440, 900, "dark"),
            ("phone", 390, 844, "light"),
        ]:
            browser.open(url, width, height, theme)
            for element, text in EXAMPLES.items():
                browser.value(EXAMPLE % (json.dumps(element), json.dumps(text)))
            browser.picture(ROOT / f"docs/images/dashboard-{name}.png", whole=False)


async def site(options, servers):
    with tempfile.TemporaryDirectory(prefix="leastconn-") as directory:
        place = Site(options.binary, servers, directory)
        try:
            await place.start()
            place.traffic()
            url = admin_url(place)
            half = options.seconds // 2
            await wait(half, f"{servers} servers, traffic")
            place.trouble()
            if options.serve:
                print(url, flush=True)
                await asyncio.Event().wait()
            await wait(options.seconds - half, f"{servers} servers, with trouble")
            browser = Browser(options.chromium, place.directory / "browser")
            try:
                await asyncio.to_thread(pictures, browser, url, servers, options.docs and servers == 7)
            finally:
                browser.stop()
        finally:
            for task in place.clients:
                task.cancel()
            place.stop()
            # Without the balancer, the connections of the servers end.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=5)


def admin_url(place):
    """The balancer logs the address of the dashboard."""
    for line in (place.directory / "messages.log").read_text().splitlines():
        if "http://" in line:
            return line[line.index("http://"):].split()[0].strip('",')
        if "admin" in line and "127.0.0.1:" in line:
            return "http://" + line[line.index("127.0.0.1:"):].split()[0].strip('",') + "/"
    raise SystemExit((place.directory / "messages.log").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/debug/leastconn-lb", type=lambda text: Path(text).absolute())
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--servers", type=int, action="append", choices=list(SITES))
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    found = filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"]))
    options.chromium = os.environ.get("CHROMIUM") or next(found, None)
    if not options.chromium and not options.serve:
        sys.exit("Chromium is not installed: apt-get install chromium, or set CHROMIUM to its path")
    # The balancer and the browser are stopped on SIGTERM as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        for servers in options.servers or SITES:
            asyncio.run(site(options, servers))


main()
