#!/usr/bin/env python3
"""Counts instructions per operation with valgrind.

    instructions.py [WORK…]            counts with the release profile
    instructions.py --check [WORK…]    counts with the dev profile, which `make test` has built, and
                                       fails if a count is too far above scripts/instructions.json
    instructions.py --update           writes scripts/instructions.json

Each workload runs n and 3n times. The difference divided by 2n excludes one-time costs.

Only instructions of Rust functions are compared: of this project, its Rust dependencies and the
standard library. libc and aws-lc choose their code by the model of the CPU, so that their counts
differ between machines. The column `all` contains them.

--check does nothing, with a message, if valgrind is missing, or if the compiler or the architecture
is not that of the baseline, because other compilers generate other instructions.
"""

import argparse
import collections
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BASELINE = Path(__file__).with_name("instructions.json")

# Repeated runs differ by less than 1 %. The rest allows for other kernels and versions of valgrind,
# which change how the handshake's bytes are divided among reads.
TOLERANCE = 0.15

Work = collections.namedtuple("Work", "crate dev release")

# For each workload, the crate whose benchmark has it, and n for both profiles. The dev profile is
# many times slower. With it, the set-up of pick-1000 alone would take minutes.
WORKS = {
    "pick-4": Work("leastconn", 100, 2000),
    "pick-64": Work("leastconn", 100, 2000),
    "pick-1000": Work("leastconn", None, 2000),
    "admit": Work("leastconn", 1000, 2000),
    "authorize": Work("leastconn-server", 100, 2000),
    "handshake": Work("leastconn-server", 4, 4),
    "echo": Work("leastconn", 100, 2000),
    "mebibyte": Work("leastconn", 2, 8),
}

# Crates that choose their code by the model of the CPU.
CPU_DEPENDENT = re.compile(r"<?(memchr|std_detect|httparse::simd)::")
TIMEOUT = 300


class ValgrindFailed(Exception):
    pass


def build(profile):
    """Builds the benchmarks, and returns their programs by crate."""
    # For the dev profile, all packages are selected, so that they have the features of `make test`.
    packages = ["--workspace"] if profile == "dev" else ["-p", "leastconn", "-p", "leastconn-server"]
    command = ["cargo", "bench", "--locked", *packages, "--bench", "instructions", "--no-run", "--profile", profile]
    built = subprocess.run([*command, "--message-format", "json-render-diagnostics"], check=True, stdout=subprocess.PIPE)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    return {
        Path(message["manifest_path"]).parent.name: message["executable"]
        for message in messages
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "instructions"
    }


def is_portable(function):
    """Whether the function has the same instructions on every CPU: a Rust function of most crates."""
    is_rust = "::" in function or function.startswith(("_R", "_ZN"))
    return is_rust and not CPU_DEPENDENT.match(function)


def read_profile(path):
    """Returns the instructions of each function, without those of its callees."""
    names, counts = {}, collections.Counter()
    function, is_call, total = None, False, None
    for line in path.open(errors="replace"):
        if (found := re.match(r"c?fn=\((\d+)\)(?: (.*))?", line)) is not None:
            number, name = found.groups()
            if name is not None:
                names[number] = name
            if line.startswith("fn="):
                function = names.get(number)
        elif line.startswith("calls="):
            is_call = True
        elif line[0] in "+-*0123456789":
            # The line after `calls=` has the cost of the callee.
            if not is_call:
                counts[function] += int(line.split()[1])
            is_call = False
        elif line.startswith("totals:"):
            total = int(line.split()[1])
    if None in counts or sum(counts.values()) != total:
        raise ValgrindFailed("the profile is incomplete")
    return counts


def count(program, work, repetitions):
    """Returns the instructions of each function for one run."""
    command = [program, work, str(repetitions)]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        try:
            run = subprocess.run([*valgrind, *command], capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ValgrindFailed(f"no result within {TIMEOUT} s") from None
        if run.returncode != 0:
            raise ValgrindFailed(run.stderr)
        return read_profile(out)


def measure(program, work, repetitions):
    """Returns the instructions of each function for one operation."""
    # A workload that fails without valgrind is an error of the workload.
    subprocess.run([program, work, "1"], check=True)
    short, long = (count(program, work, n) for n in (repetitions, 3 * repetitions))
    return {function: (long[function] - short[function]) / (2 * repetitions) for function in long | short}


def compiler():
    version = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    return f"{version} {platform.machine()}"


def compare(work, now, before):
    """Returns a remark about the count `now`, and whether it is too high."""
    if before is None:
        return f"not in {BASELINE.name}", True
    change = f"{100 * (now / before - 1):+.1f} %"
    if now > before * (1 + TOLERANCE):
        return f"{change}, more than {100 * TOLERANCE:.0f} % above {before}", True
    if now < before * (1 - TOLERANCE):
        return f"{change}, less than before: update the baseline", False
    return change, False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare with the baseline")
    mode.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("work", nargs="*", metavar="WORK", help=", ".join(WORKS))
    options = parser.parse_args()
    is_dev = options.check or options.update
    works = options.work or [work for work in WORKS if WORKS[work].dev or not is_dev]
    if unknown := set(works) - set(WORKS):
        parser.error(f"unknown workload {', '.join(unknown)}")
    if options.update and options.work:
        parser.error("--update counts all workloads")
    if is_dev and "pick-1000" in works:
        parser.error("pick-1000 needs the release profile")

    baseline = json.loads(BASELINE.read_text()) if options.check else {}
    if shutil.which("valgrind") is None:
        if options.check:
            print("instructions: skipped, valgrind is not installed")
            return 0
        sys.exit("instructions: valgrind is missing (Debian, Ubuntu: apt-get install valgrind)")
    if options.check and baseline["compiler"] != compiler():
        print(f"instructions: skipped, {BASELINE.name} was measured with {baseline['compiler']}, this is {compiler()}")
        return 0

    programs = build("dev" if is_dev else "bench")
    counted, too_high = {}, []
    print(f"{'work':10} {'instructions':>14} {'all':>14}", flush=True)
    for work in works:
        crate, dev, release = WORKS[work]
        try:
            functions = measure(programs[crate], work, dev if is_dev else release)
        except ValgrindFailed as error:
            if not options.check:
                sys.exit(f"instructions: {work}: {error}")
            print(f"{work:10} skipped, valgrind failed: {error}", flush=True)
            continue
        portable = {function: cost for function, cost in functions.items() if is_portable(function)}
        counted[work] = round(sum(portable.values()))
        line = f"{work:10} {counted[work]:14} {round(sum(functions.values())):14}"
        if options.check:
            remark, is_too_high = compare(work, counted[work], baseline["instructions"].get(work))
            line = f"{line}   {remark}"
            if is_too_high:
                too_high.append(work)
        print(line, flush=True)
        if work in too_high:
            for function, cost in sorted(portable.items(), key=lambda entry: -entry[1])[:8]:
                print(f"  {cost:14.0f} {function}", flush=True)
    if options.update:
        BASELINE.write_text(json.dumps({"compiler": compiler(), "instructions": counted}, indent=2) + "\n")
    if too_high:
        print(
            f"instructions: failed, too many instructions: {', '.join(too_high)}. The functions with the most "
            "instructions are listed above. If the increase is intended, or comes from an update of a dependency, run "
            "scripts/instructions.py --update and commit scripts/instructions.json.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
