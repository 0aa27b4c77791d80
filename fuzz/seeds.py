#!/usr/bin/env python3
"""Generates the seed corpora of the fuzz targets: fuzz/seeds, and the certificates in fuzz/material.

The results are committed, and no private key is kept. Run this again only to change the seeds:
the certificates then have new keys. The target `configuration` starts with examples/. Needs
openssl.
"""

import base64
import json
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
MATERIAL, SEEDS = FUZZ / "material", FUZZ / "seeds"
# The target `chain` verifies as of 2030.
DAYS = "20000"

CONFIG = """
[ca]
default_ca = ca
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 20000
crl_extensions = crl_ext
[crl_ext]
authorityKeyIdentifier = keyid
"""


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, **options).stdout


def key(path):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def issue(directory, name, issuer, subject, extensions):
    """Issues a certificate, and returns it in DER."""
    key(directory / f"{name}.key")
    request = openssl("req", "-new", "-key", directory / f"{name}.key", "-subj", subject)
    (directory / "extensions").write_text(extensions)
    certificate = directory / f"{name}.pem"
    signer = ["-CA", directory / f"{issuer}.pem", "-CAkey", directory / f"{issuer}.key", "-CAcreateserial"]
    if issuer == name:
        signer = ["-key", directory / f"{name}.key"]
    openssl("x509", "-req", "-days", DAYS, "-extfile", directory / "extensions", *signer, "-out", certificate, input=request)
    return openssl("x509", "-in", certificate, "-outform", "DER")


def crls(directory):
    """Returns an empty CRL and one with three entries, in DER."""
    (directory / "ca.cnf").write_text(CONFIG)
    (directory / "index.txt").write_text("")
    (directory / "crlnumber").write_text("01\n")
    found = []
    for entries in (0, 3):
        (directory / "index.txt").write_text("".join(
            f"R\t490101000000Z\t260101000000Z\t{n:02X}FF\tunknown\t/CN=client{n}\n" for n in range(1, entries + 1)))
        pem = openssl("ca", "-config", directory / "ca.cnf", "-gencrl", "-keyfile", directory / "authority.key",
                      "-cert", directory / "authority.pem", cwd=directory)
        found.append(openssl("crl", "-outform", "DER", input=pem))
    return found


def pem(label, der):
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def chain(*certificates):
    return b"".join(struct.pack(">H", len(der)) + der for der in certificates)


def write(target, seeds):
    directory = SEEDS / target
    directory.mkdir(parents=True)
    for number, seed in enumerate(seeds):
        (directory / f"{number:02}").write_bytes(seed if isinstance(seed, bytes) else seed.encode())


def main():
    for directory in (MATERIAL, SEEDS):
        shutil.rmtree(directory, ignore_errors=True)
    MATERIAL.mkdir()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash"
        client = "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n"
        der = {}
        for name, issuer, subject, extensions in [
            ("authority", "authority", "/CN=fuzz authority", authority),
            ("intermediate", "authority", "/CN=fuzz intermediate", authority),
            ("constrained", "authority", "/CN=fuzz constrained",
             authority + "\nnameConstraints=critical,permitted;URI:.example.org,permitted;DNS:example.org"),
            ("client", "authority", "/OU=team/CN=client1.example.org",
             client + "subjectAltName=DNS:client1.example.org,DNS:*.example.org"),
            ("below-intermediate", "intermediate", "/CN=client2", client + "subjectAltName=URI:spiffe://example.org/ns/web"),
            ("below-constrained", "constrained", "/CN=client3.example.org",
             client + "subjectAltName=URI:https://a.example.org/x,DNS:a.example.org"),
            # Not in the list of genuine clients: the name is outside of the constraints.
            ("outside", "constrained", "/CN=client4", client + "subjectAltName=DNS:example.com"),
        ]:
            der[name] = issue(directory, name, issuer, subject, extensions)
        lists = crls(directory)
    for name in ("authority", "client", "below-intermediate", "below-constrained"):
        (MATERIAL / f"{name}.der").write_bytes(der[name])
    write("chain", [
        chain(der["client"]),
        chain(der["below-intermediate"], der["intermediate"]),
        chain(der["below-intermediate"], der["constrained"], der["intermediate"], der["authority"]),
        chain(der["below-constrained"], der["constrained"]),
        chain(der["outside"], der["constrained"]),
    ])
    write("identity", [der[name] for name in ("client", "below-intermediate", "below-constrained", "authority")])
    write("crl", lists)
    write("pem", [
        b"\0" + pem("CERTIFICATE", der["client"]),
        b"\0" + pem("CERTIFICATE", der["client"]) + pem("X509 CRL", lists[0]),
        b"\0" + der["client"],
        b"\2" + pem("X509 CRL", lists[0]) + pem("X509 CRL", lists[1]),
        b"\2" + lists[1] + b"\n",
        b"\0\xef\xbb\xbf" + pem("TRUSTED CERTIFICATE", der["client"]).replace(b"\n", b"\r\n"),
        b"\1" + pem("EC PARAMETERS", bytes.fromhex("06082a8648ce3d030107")),
        b"\1" + pem("PUBLIC KEY", b"\x30\x00"),
    ])
    write("access_log", ["cn:client1.example.org", 'cn:"a\n{}\\\u202e', "x" * 2000, "\u2060" * 400])
    bodies = [{"state": "maint", "grace": "5s"}, {"weight": "50%", "here": True}, {"level": "debug"},
              {"client": "a", "server": "web/web1", "connection": 7}, {"identity": "cn:a", "for": "24h"}, {"serial": "0A"}]
    write("admin", [
        *("\0" + json.dumps(body) for body in bodies),
        "\1client=a%20b&listener=main&server=web%2Fweb1&search=x&limit=10",
        "\2[::1]:9901", "\2LOCALHOST.:80", "\2lb.example.com", "\2a.localhost",
        "\3cn:client1", "\3spki:" + 64 * "0", "\0030a:0b", "\00350%", "\0031h30m",
    ])
    write("patterns", ["*.example.org", "spiffe://example.org/ns/*/sa/**"])
    write("proxy_protocol", [
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1000 443\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(range(12)),
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ])
    # Short, since each byte is a choice.
    write("relay", [bytes(range(64)), bytes(64), 16 * b"\x05\0\3\2"])
    for target in ("tls_record", "tls_stream"):
        write(target, [bytes([setting]) + b"\0\x10" * 4 + b"\x06\x40\x04\xff" for setting in range(4)])
    # Per pair: operation and size. Data, a key update, delivery, a read, a write, close_notify.
    work = b"\x00\x40\x06\xff\x16\xff\x0a\xff\x03\x01\x00\x10\x0c\x30\x18\xff\x19\xff\x0a\xff\x04\x01\x0f\x01"
    write("tls_model", [bytes([setting]) + work for setting in (0, 1, 2, 3, 0x54)])


if __name__ == "__main__":
    main()
