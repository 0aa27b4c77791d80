"""CPU time per handshake that is refused because of its certificates.

The client presents untrusted certificates that are expensive to verify: mazes of CAs,
long chains with and without valid signatures, large keys, many names and extensions. In a
maze, all CAs have the same name, so each CA is a candidate issuer of all other CAs.
"""

import socket
import ssl
import time
from pathlib import Path

import balancers
import certificates as c

LIMIT_MS = 2.0


def mazes(pki: Path, key: bytes):
    """Yields the title of each case, and the chain that its client presents, leaf first."""
    anchor = subject_of(pki / "ca.crt")
    made = [c.new_key(pki / f"maze{n}.key") for n in range(12)]

    def leaf(issuer, *extensions):
        return c.certificate(c.name("client"), issuer, key, *extensions)

    def maze(name, count):
        return [leaf(name)] + [c.certificate(name, name, k, c.IS_CA) for k in made[:count]]

    foreign = c.name("some CA")
    chain = [c.name(f"level {n}") for n in range(9)]
    yield "one untrusted certificate", [leaf(foreign)]
    yield "maze of 12, foreign name", maze(foreign, 12)
    yield "maze of 12, the CA's name", maze(anchor, 12)
    yield "maze of 8, foreign name", maze(foreign, 8)
    yield "maze of 8, the CA's name", maze(anchor, 8)
    yield "chain of 8 to the CA's name", [leaf(chain[0])] + [
        c.certificate(chain[n], anchor if n == 7 else chain[n + 1], made[n], c.IS_CA) for n in range(8)
    ]
    large = [pki / f"large{n}.key" for n in range(9)]
    large_keys = [c.new_key(k, "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521") for k in large]
    yield "valid chain of 8 P-521, foreign name", [c.certificate(c.name("client"), chain[0], key, signed_with=large[0])] + [
        c.certificate(chain[n], chain[n + 1], large_keys[n], c.IS_CA, signed_with=large[n + 1]) for n in range(8)
    ]
    yield "8 CAs, one name, RSA-8192", [leaf(foreign)] + [
        c.certificate(foreign, anchor, c.rsa_key(8192), c.IS_CA, rsa=8192) for _ in range(8)
    ]
    yield "8 CAs, one name, RSA-16384, huge exponent", [leaf(foreign)] + [
        c.certificate(foreign, foreign, c.rsa_key(16384, (1 << 16000) + 1), c.IS_CA, rsa=16384) for _ in range(8)
    ]
    yield "4,000 names", [leaf(foreign, c.alternative_names([b"a%d.example" % n for n in range(4000)]))]
    yield "20,000 names of one byte", [leaf(foreign, c.alternative_names([b"a"] * 20000))]
    yield "100,000 names (message is too long)", [leaf(foreign, c.alternative_names([b"a%d" % n for n in range(100000)]))]
    yield "3,000 extensions", [leaf(foreign, c.unknown_extensions(3000))]
    yield "8 with 350 extensions each, the CA's name", [leaf(anchor)] + [
        c.certificate(anchor, anchor, made[n], c.IS_CA, c.unknown_extensions(350)) for n in range(8)
    ]
    yield "20,000 names, expired", [
        c.certificate(c.name("client"), foreign, key, c.alternative_names([b"a"] * 20000), expired=True)
    ]
    yield "20,000 names, unknown critical extension", [
        leaf(foreign, c.alternative_names([b"a"] * 20000), c.extension(b"\x2a\x03\x04", b"\x05\x00", critical=True))
    ]
    yield "4,000 attributes in the subject", [c.certificate(c.name(*["a"] * 4000), foreign, key)]
    yield "4,000 attributes in the issuer", [leaf(c.name(*["a"] * 4000))]
    yield "5 with 800 attributes each", [leaf(c.name(*["a"] * 800))] + [
        c.certificate(c.name(*["a"] * 800), anchor, made[n], c.IS_CA) for n in range(4)
    ]
    yield "a name of 28,000 words", [c.certificate(c.name("a " * 28000), foreign, key)]
    yield "700 policies", [leaf(foreign, c.policies(700))]
    yield "1,000 authority addresses", [leaf(foreign, c.authority_information(1000))]
    yield "8 CAs with 300 name constraints each", [
        leaf(foreign, c.alternative_names([b"x%d.example" % n for n in range(300)]))
    ] + [c.certificate(foreign, anchor, made[n], c.IS_CA, c.name_constraints(300)) for n in range(8)]
    yield "7 CAs of 8 KB, the CA's name", [leaf(anchor)] + [
        c.certificate(anchor, anchor, made[n], c.IS_CA, c.extension(b"\x2a\x03\x04", bytes(8000))) for n in range(7)
    ]


def subject_of(certificate: Path):
    """Returns the DER-encoded subject of a PEM certificate."""
    der = c.openssl("x509", "-in", certificate, "-outform", "DER")

    def value(at):
        length, at = der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        return at, at + length

    at, _ = value(0)
    at, _ = value(at)
    for _ in range(5):
        _, at = value(at)
    return der[at : value(at)[1]]


def refused(context, port):
    """Connects once. Returns True if the balancer refuses the client."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as tcp:
            with context.wrap_socket(tcp, server_hostname="localhost") as tls:
                tls.sendall(b"hello")
                return tls.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def measure(balancer, context, count):
    for _ in range(5):
        if not refused(context, balancer.port):
            raise SystemExit(f"{balancer.kind} accepted an untrusted client")
    before = balancer.cpu()
    for _ in range(count):
        if not refused(context, balancer.port):
            raise SystemExit(f"{balancer.kind} accepted an untrusted client")
    # The measurement includes the work that the balancer does after the client has
    # disconnected.
    time.sleep(0.1)
    return (balancer.cpu() - before) / count * 1000


def run(binary, directory: Path, seconds):
    pki = directory / "pki"
    c.make_pki(pki)
    key = c.new_key(pki / "stranger.key")
    cases = []
    for title, chain in mazes(pki, key):
        file = pki / "presented.crt"
        file.write_text("".join(map(c.pem, chain)))
        context = ssl.create_default_context(cafile=pki / "ca.crt")
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        try:
            context.load_cert_chain(file, pki / "stranger.key")
        except ssl.SSLError as error:
            print(f"  left out: {title}: this OpenSSL cannot send it ({error.reason})")
            continue
        cases.append((title, sum(map(len, chain)), context))
    upstream = balancers.EchoServer().port
    starters = [lambda: balancers.leastconn(binary, directory, pki, upstream), *balancers.peers(directory, pki, upstream)]
    results = {}
    count = max(10, int(seconds * 2))
    for start in starters:
        with start() as balancer:
            for title, _, context in cases:
                results[title, balancer.kind] = measure(balancer, context, count)
    kinds = list(dict.fromkeys(kind for _, kind in results))
    print(f"  {'CPU for each refused handshake, ms':44} {'bytes':>7} " + " ".join(f"{k:>10}" for k in kinds))
    for title, size, _ in cases:
        print(f"  {title:44} {size:>7} " + " ".join(f"{results[title, k]:10.2f}" for k in kinds))
    slow = [title for title, _, _ in cases if results[title, "leastconn"] > LIMIT_MS]
    return [f"{title}: more than {LIMIT_MS} ms" for title in slow]
