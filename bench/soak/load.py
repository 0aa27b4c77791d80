"""Echo servers that can die and return, and clients that remember what happened to them."""

import os
import random
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass

from balancer import PLAIN_PORT, TLS_PORT

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
TIMEOUT = 60


class EchoServer:
    """Echoes each connection until the client has finished, then finishes too."""

    def __init__(self, port):
        self.port = port
        self.lock = threading.Lock()
        self.open = set()
        self.listener = None
        self.start()

    def start(self):
        listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        with self.lock:
            self.listener = listener
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                alive = self.listener is listener
                if alive:
                    self.open.add(connection)
            if alive:
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()
            else:
                self.reset(connection)

    def serve(self, connection):
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass
        with self.lock:
            if connection in self.open:
                self.open.remove(connection)
                connection.close()

    @staticmethod
    def reset(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.shutdown(socket.SHUT_RD)
        connection.close()

    def die(self):
        """Stops listening, and resets all connections."""
        with self.lock:
            listener, self.listener = self.listener, None
            connections, self.open = self.open, set()
        # Wakes the thread that accepts.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            try:
                self.reset(connection)
            except OSError:
                connection.close()


@dataclass
class Visit:
    """A connection as its client saw it."""

    listener: str
    port: int
    time: float
    kind: str
    result: str


# The outcomes in the access log that agree with what the client saw.
SERVER_GONE = {"server_reset", "connect_failed", "drained"}
AGREEING = {
    ("abort", "done"): {"client_reset"},
    ("probe", "done"): {"client_closed", "ok", "handshake_failed"},
    ("stranger", "refused"): {"no_certificate"},
    ("limited", "cut"): {"rate_limited", *SERVER_GONE},
    ("revoked", "refused"): {"revoked_certificate"},
    ("revoked", "cut"): {"revoked_certificate", *SERVER_GONE},
}


def agrees(visit, outcome):
    if visit.result == "ok":
        return outcome == "ok"
    default = SERVER_GONE if visit.result == "cut" else ()
    return outcome in AGREEING.get((visit.kind, visit.result), default)


class Clients:
    """Runs connections of all kinds, `rate` per second, until stopped."""

    SHORT = {"short": 10, "stream": 2, "half-close": 3, "abort": 2, "probe": 1, "stranger": 1, "limited": 2}

    def __init__(self, pki, rate, long):
        self.rate, self.long_connections = rate, long
        self.visits, self.errors = [], []
        self.lock = threading.Lock()
        self.busy = threading.Condition(self.lock)
        self.running = 0
        self.active = False
        self.block = os.urandom(1 << 20)
        self.contexts = {name: self.context(pki, *pki.issue(name)) for name in ("client", "limited")}
        self.contexts["stranger"] = self.context(pki)
        threading.Thread(target=self.start_short, daemon=True).start()
        for _ in range(long):
            threading.Thread(target=self.repeat_long, daemon=True).start()

    @staticmethod
    def context(pki, certificate=None, key=None):
        context = ssl.create_default_context(cafile=str(pki.directory / "ca.crt"))
        if certificate:
            context.load_cert_chain(certificate, key)
        return context

    def resume(self):
        self.active = True

    def pause(self):
        """Starts no further connections, and waits until the open ones have ended."""
        self.active = False
        with self.busy:
            if not self.busy.wait_for(lambda: self.running == 0, timeout=TIMEOUT + 30):
                raise SystemExit(f"soak: {self.running} clients do not end")

    def start_short(self):
        due = time.monotonic()
        kinds, weights = zip(*self.SHORT.items())
        while True:
            due = max(due + random.expovariate(self.rate), time.monotonic() - 1)
            time.sleep(max(0, due - time.monotonic()))
            with self.busy:
                # Many open short connections mean that they are slower than the rate.
                if not self.active or self.running >= 64 + self.long_connections:
                    continue
                self.running += 1
            kind = random.choices(kinds, weights)[0]
            threading.Thread(target=self.run, args=(kind,), daemon=True).start()

    def repeat_long(self):
        while True:
            time.sleep(random.uniform(0.05, 0.2))
            with self.busy:
                if not self.active:
                    continue
                self.running += 1
            self.run("long")

    def run(self, kind):
        """Runs one connection. The caller has counted it in `running`."""
        try:
            encrypted = kind in ("stranger", "limited") or kind != "half-close" and random.random() < 0.5
            who = kind if kind in self.contexts else "client"
            self.connect(kind, self.contexts[who] if encrypted else None, getattr(self, kind.replace("-", "_")))
        except Exception as error:
            self.errors.append(f"{kind}: {error!r}")
        finally:
            with self.busy:
                self.running -= 1
                self.busy.notify_all()

    def connect(self, kind, context, work):
        listener, port = ("mtls", TLS_PORT) if context else ("plain", PLAIN_PORT)
        stream = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        visit = Visit(listener, stream.getsockname()[1], time.time(), kind, "cut")
        with self.lock:
            self.visits.append(visit)
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context and kind != "probe":
                stream = context.wrap_socket(stream, server_hostname="localhost")
            visit.result = work(stream)
        except TimeoutError as error:
            self.errors.append(f"{kind}: {error!r}")
        except ssl.SSLEOFError:
            pass
        except ssl.SSLError as error:
            # An alert of the balancer. OpenSSL reports other failures of TLS the same way.
            is_alert = "ALERT" in (error.reason or "")
            visit.result = "refused" if is_alert else visit.result
            if not is_alert:
                self.errors.append(f"{kind}: {error!r}")
        except OSError:
            pass
        finally:
            stream.close()

    @staticmethod
    def read_exactly(stream, length):
        received = bytearray()
        while len(received) < length:
            data = stream.recv(length - len(received))
            if not data:
                raise ConnectionResetError
            received += data
        return received

    def echo(self, stream, data):
        """Sends data and compares its echo, with at most 64 KiB on the way."""
        for start in range(0, len(data), 65536):
            part = data[start : start + 65536]
            stream.sendall(part)
            if self.read_exactly(stream, len(part)) != part:
                raise ValueError("the echo differs from what was sent")

    @staticmethod
    def finish(stream):
        """Ends the connection in order, and expects the same of the other side."""
        if isinstance(stream, ssl.SSLSocket):
            stream.unwrap()
        else:
            stream.shutdown(socket.SHUT_WR)
            if stream.recv(1):
                raise ValueError("more bytes than were sent")
        return "ok"

    def short(self, stream):
        self.echo(stream, self.block[: random.randint(1, 4096)])
        return self.finish(stream)

    limited = stranger = short

    def stream(self, stream):
        for _ in range(random.randint(1, 4)):
            self.echo(stream, self.block)
        return self.finish(stream)

    def half_close(self, stream):
        data = self.block[: random.randint(1, 16384)]
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        if self.read_exactly(stream, len(data)) != data:
            raise ValueError("the reply differs from what was sent")
        if stream.recv(1):
            raise ValueError("more bytes than were sent")
        return "ok"

    def abort(self, stream):
        self.echo(stream, self.block[:100])
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        return "done"

    @staticmethod
    def probe(stream):
        return "done"

    def long(self, stream):
        end = time.monotonic() + random.uniform(2, 15)
        while time.monotonic() < end and self.active:
            self.echo(stream, self.block[: random.randint(1, 8192)])
            time.sleep(random.uniform(0.05, 0.5))
        return self.finish(stream)

    def revoked_client(self, pki, number):
        """Revokes a connected client. Returns the seconds until its connection ended."""
        name = f"{number}.revoked"
        certificate, key = pki.issue(name)
        context = self.context(pki, certificate, key)
        seconds = []

        def work(stream):
            self.echo(stream, b"before")
            pki.revoke(certificate)
            # From here on the new CRL is in place.
            start = time.monotonic()
            try:
                while stream.recv(1):
                    pass
            finally:
                seconds.append(time.monotonic() - start)
            return "cut"

        self.connect("revoked", context, work)
        # The next connection of the client is refused.
        self.connect("revoked", context, self.short)
        certificate.unlink()
        key.unlink()
        return seconds[0] if seconds else float("inf")
