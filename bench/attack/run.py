#!/usr/bin/env python3
"""Attacks a balancer and says what that cost it. `make attack` runs it.

    bench/attack/run.py [--binary FILE] [--seconds N] [--only NAME,...]

Exit code 1 if something costs more than docs/threats.md says. All traffic stays on
loopback; as root, in a network namespace that is made for it. Needs Python 3.9 and
openssl; nginx (with its stream module) and HAProxy are measured beside if installed.
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
    """Starts this program again in a network namespace of its own, if that is possible."""
    if os.environ.get("ATTACK_NAMESPACE") or os.geteuid() != 0 or not shutil.which("unshare"):
        return
    usable = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True)
    if usable.returncode == 0:
        os.environ["ATTACK_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/leastconn-lb", help="the balancer")
    parser.add_argument("--seconds", type=float, default=10, help="how long each attack lasts, about")
    parser.add_argument("--only", default=",".join(ATTACKS), help="which: " + ", ".join(ATTACKS))
    asked = parser.parse_args()
    binary = str(Path(asked.binary).resolve())
    if not os.access(binary, os.X_OK):
        raise SystemExit(f"{asked.binary} is not there; first: make build")
    enter_namespace()
    if os.environ.get("ATTACK_NAMESPACE"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    failures = []
    for name in asked.only.split(","):
        print(f"== {name}: {ATTACKS[name].__module__}.py", flush=True)
        with tempfile.TemporaryDirectory(prefix="attack-") as directory:
            failures += ATTACKS[name](binary, Path(directory), asked.seconds)
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
