#!/usr/bin/env python3
"""Attacks a balancer and measures the cost. Run by `make attack`.

    bench/attack/run.py [--binary FILE] [--seconds N] [--only NAME,...]

Exit code 1 if a cost exceeds the limits in docs/threats.md. All traffic stays on
loopback; when run as root, in a new network namespace. Needs Python 3.9 and openssl.
Also measures nginx (with the stream module) and HAProxy if they are installed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import handshakes
import identities
import stalled

ATTACKS = {
    "handshakes": handshakes.run,
    "stalled": stalled.run,
    "identities": identities.run,
}


def enter_namespace():
    """Restarts this program in a new network namespace, if the kernel permits it."""
    if os.environ.get("ATTACK_NAMESPACE") or os.geteuid() != 0 or not shutil.which("unshare"):
        return
    usable = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True)
    if usable.returncode == 0:
        os.environ["ATTACK_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/leastconn-lb", help="path of the balancer")
    parser.add_argument("--seconds", type=float, default=10, help="approximate duration of each attack")
    parser.add_argument("--only", default=",".join(ATTACKS), help="attacks to run: " + ", ".join(ATTACKS))
    options = parser.parse_args()
    binary = str(Path(options.binary).resolve())
    if not os.access(binary, os.X_OK):
        raise SystemExit(f"{options.binary} does not exist; run make build first")
    enter_namespace()
    if os.environ.get("ATTACK_NAMESPACE"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    failures = []
    for name in options.only.split(","):
        print(f"== {name}: {ATTACKS[name].__module__}.py", flush=True)
        with tempfile.TemporaryDirectory(prefix="attack-") as directory:
            failures += ATTACKS[name](binary, Path(directory), options.seconds)
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
