"""Encodes unusual certificates. openssl generates the keys and the valid signatures."""

import os
import subprocess
from pathlib import Path

SEQUENCE, SET, INTEGER, OID, NULL = 0x30, 0x31, 0x02, 0x06, 0x05
BIT_STRING, OCTET_STRING, UTF8, BOOLEAN, UTC_TIME = 0x03, 0x04, 0x0C, 0x01, 0x17

ECDSA_SHA256 = bytes.fromhex("2a8648ce3d040302")
ECDSA_SHA512 = bytes.fromhex("2a8648ce3d040304")
RSA_ENCRYPTION = bytes.fromhex("2a864886f70d010101")
RSA_SHA256 = bytes.fromhex("2a864886f70d01010b")


def tlv(tag, *contents):
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def integer(number):
    return tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def name(*common_names):
    """Encodes a distinguished name, with each common name in a relative name of its own."""
    attributes = (tlv(SEQUENCE, tlv(OID, b"\x55\x04\x03"), tlv(UTF8, text.encode())) for text in common_names)
    return tlv(SEQUENCE, *(tlv(SET, attribute) for attribute in attributes))


def extension(oid, value, critical=False):
    flag = tlv(BOOLEAN, b"\xff") if critical else b""
    return tlv(SEQUENCE, tlv(OID, oid), flag, tlv(OCTET_STRING, value))


IS_CA = extension(b"\x55\x1d\x13", tlv(SEQUENCE, tlv(BOOLEAN, b"\xff")), critical=True)


def alternative_names(names):
    return extension(b"\x55\x1d\x11", tlv(SEQUENCE, *(tlv(0x82, n) for n in names)))


def name_constraints(count):
    trees = (tlv(SEQUENCE, tlv(0x82, b"a%d.example" % n)) for n in range(count))
    return extension(b"\x55\x1d\x1e", tlv(SEQUENCE, tlv(0xA0, *trees)), critical=True)


def policies(count):
    """Encodes certificate policies, each with a CPS URI."""
    qualifier = tlv(
        SEQUENCE,
        tlv(OID, bytes.fromhex("2b06010505070201")),
        tlv(0x16, b"http://127.0.0.1/policy"),
    )
    each = (tlv(SEQUENCE, tlv(OID, b"\x2a\x03" + bytes([n % 100])), tlv(SEQUENCE, qualifier)) for n in range(count))
    return extension(b"\x55\x1d\x20", tlv(SEQUENCE, *each))


def authority_information(count):
    access = tlv(
        SEQUENCE,
        tlv(OID, bytes.fromhex("2b06010505073002")),
        tlv(0x86, b"http://127.0.0.1/ca"),
    )
    return extension(bytes.fromhex("2b06010505070101"), tlv(SEQUENCE, access * count))


def unknown_extensions(count):
    return b"".join(extension(b"\x2a\x03\x04" + bytes([n // 100 + 1, n % 100]), b"\x05\x00") for n in range(count))


def rsa_key(bits, exponent=65537):
    """Returns a random public key, whose private key is not known."""
    modulus = int.from_bytes(os.urandom(bits // 8), "big") | 1 | 1 << (bits - 1)
    key = tlv(SEQUENCE, integer(modulus), integer(exponent))
    algorithm = tlv(SEQUENCE, tlv(OID, RSA_ENCRYPTION), tlv(NULL))
    return tlv(SEQUENCE, algorithm, tlv(BIT_STRING, b"\x00" + key))


def garbage_signature():
    """Returns a well-formed but invalid signature, which verifiers must check to reject it."""
    number = lambda: integer(int.from_bytes(b"\x7f" + os.urandom(31), "big"))
    return tlv(SEQUENCE, number(), number())


def certificate(subject, issuer, key, *extensions, rsa=0, expired=False, signed_with=None):
    """Returns a certificate with an invalid P-256 signature, or RSA signature of `rsa` bits.

    With `signed_with`, the file of a private EC key, the signature is valid.
    """
    if signed_with:
        algorithm = tlv(SEQUENCE, tlv(OID, ECDSA_SHA512))
    elif rsa:
        algorithm = tlv(SEQUENCE, tlv(OID, RSA_SHA256), tlv(NULL))
        signature = b"\x00" + os.urandom(rsa // 8)
    else:
        algorithm = tlv(SEQUENCE, tlv(OID, ECDSA_SHA256))
        signature = b"\x00" + garbage_signature()
    validity = tlv(SEQUENCE, tlv(UTC_TIME, b"200101000000Z"), tlv(UTC_TIME, b"210101000000Z" if expired else b"491231235959Z"))
    fields = [
        tlv(0xA0, integer(2)),
        tlv(INTEGER, b"\x01" + os.urandom(8)),
        algorithm,
        issuer,
        validity,
        subject,
        key,
    ]
    if extensions:
        fields.append(tlv(0xA3, tlv(SEQUENCE, *extensions)))
    signed = tlv(SEQUENCE, *fields)
    if signed_with:
        signature = b"\x00" + openssl("dgst", "-sha512", "-sign", signed_with, input=signed)
    return tlv(SEQUENCE, signed, algorithm, tlv(BIT_STRING, signature))


def pem(der):
    import base64

    text = base64.b64encode(der).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, **options).stdout


def new_key(path: Path, *algorithm):
    """Generates a private key. Returns the public key in DER."""
    algorithm = algorithm or ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    openssl("genpkey", *algorithm, "-out", path)
    return openssl("pkey", "-in", path, "-pubout", "-outform", "DER")


def make_pki(directory: Path):
    """Generates a CA, a balancer certificate and a client certificate with openssl."""
    directory.mkdir(parents=True, exist_ok=True)
    new_key(directory / "ca.key")
    openssl("req", "-x509", "-new", "-key", directory / "ca.key", "-subj", "/CN=attack test CA", "-days", "30",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", directory / "ca.crt")
    for who, extensions in [
        ("server", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE"),
        ("client", "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE"),
    ]:
        new_key(directory / f"{who}.key")
        request = openssl("req", "-new", "-key", directory / f"{who}.key", "-subj", f"/CN={who}")
        (directory / "extensions").write_text(extensions)
        openssl("x509", "-req", "-CA", directory / "ca.crt", "-CAkey", directory / "ca.key", "-days", "30",
                "-CAcreateserial", "-extfile", directory / "extensions", "-out", directory / f"{who}.crt", input=request)
    both = (directory / "server.crt").read_text() + (directory / "server.key").read_text()
    (directory / "server.pem").write_text(both)
