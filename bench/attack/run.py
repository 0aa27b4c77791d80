#!/usr/bin/env python3
"""Attacks a balancer and measures the cost. Run by `make attack`.

    bench/attack/run.py [--binary FILE] [--seconds N] [--only NAME,...]

Exit code 1 if a cost exceeds the limits in docs/threats.md. All traffic stays on
loopback; when run as root, in a new network namespace. Needs Python 3.9 and openssl.
Also measures nginx (with the stream module) and HAProxy if they are installed.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import handshakes
import identities
import stalled

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from namespace import enter_namespace  # noqa: E402

ATTACKS = {
    "handshakes": handshakes.run,
    "stalled": stalled.run,
    "identities": identities.run,
}


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
