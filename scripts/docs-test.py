#!/usr/bin/env python3
"""Runs the commands of the documentation, as they are printed.

    docs-test.py [--binary PATH] [--keep] [PAGE]…      (default: all pages with runnable blocks)

A page is turned into one bash script and runs in an empty directory, in its own network, mount
and process namespaces. Loopback ports, /etc/leastconn, /run/leastconn and /var/log/leastconn are
therefore free, and every process that the page starts ends with it. A page fails at its first
command that fails.

    ```sh run               commands that must succeed
    ```sh run fails         commands; the last one must fail
    ```toml file=NAME       text that is saved as NAME
    <!-- run                commands that a reader does not see: preparation, and checks of
    -->                     what the visible commands have done

In all blocks `REPOSITORY` is set to the directory of the repository, and `leastconn-lb` is the
binary under test. The function `have TEXT` fails unless the output of the previous visible
block contains TEXT.
"""

import argparse
import concurrent.futures
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]+)\n(?P<code>.*?)^ *```[ ]*$|^<!-- run\n(?P<hidden>.*?)^-->$",
    re.DOTALL | re.MULTILINE,
)
LIMIT = 120  # seconds for one page

PRELUDE = r"""
set -euo pipefail
export REPOSITORY HOME=$PWD
OUT=$PWD/.output
ip link set lo up
# Changes to these directories are lost with the mount namespace.
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir /etc/leastconn /run/leastconn /var/log/leastconn
have() { grep -qF -- "$1" "$OUT" || { echo "the output does not contain: $1"; return 1; }; }
wait_for() { # COMMAND: until it succeeds, at most ten seconds
  local i
  for i in $(seq 100); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.1; done
  echo "not within ten seconds: $*"; return 1
}
"""


def blocks(page):
    """Yields (line, kind, text): kind is `run`, `fails`, `hidden` or the name of a file."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["hidden"] is not None:
            yield line, "hidden", found["hidden"]
            continue
        indent = len(found["indent"])
        code = "".join(part[indent:] if part.strip() else part for part in found["code"].splitlines(True))
        words = found["info"].split()
        names = [word.removeprefix("file=") for word in words if word.startswith("file=")]
        if names:
            yield line, names[0], code
        elif "run" in words:
            yield line, "fails" if "fails" in words else "run", code


def script(page):
    lines = [PRELUDE]
    name = page.relative_to(ROOT)
    count = 0
    for line, kind, code in blocks(page):
        lines.append(f"echo '== {name}:{line}' >&2")
        if kind == "hidden":
            lines.append(code)
        elif kind in ("run", "fails"):
            count += 1
            # The commands run in this shell, because later blocks use their variables,
            # functions and background processes.
            lines.append('exec 3>&1 4>&2 >"$OUT" 2>&1')
            if kind == "fails":
                lines.append(f"set +e\n{code}\nSTATUS=$?\nset -e\nexec >&3 2>&4; cat \"$OUT\"")
                lines.append('[ "$STATUS" != 0 ] || { echo "this block must fail"; exit 1; }')
            else:
                lines.append("trap 'exec >&3 2>&4; cat \"$OUT\"' EXIT")
                lines.append(code)
                lines.append("trap - EXIT; exec >&3 2>&4; cat \"$OUT\"")
        else:
            end = "END_OF_FILE_BLOCK"
            target = shlex.quote(kind)
            lines.append(f"mkdir -p \"$(dirname {target})\"; cat >{target} <<'{end}'\n{code}{end}")
    return count, "\n".join(lines)


def run(page, binary, keep):
    count, text = script(page)
    if not count:
        return page, 0, 0.0, "", True
    directory = Path(tempfile.mkdtemp(prefix="docs-test-"))
    path = directory / ".bin"
    path.mkdir()
    (path / "leastconn-lb").symlink_to(binary)
    (directory / ".script").write_text(text)
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environment = {
        "PATH": f"{path}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "REPOSITORY": str(ROOT),
        "LANG": "C.UTF-8",
    }
    began = time.monotonic()
    log = directory / ".log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            namespaces + ["bash", ".script"], cwd=directory, env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )
        try:
            status = child.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            child.kill()
            status = f"timeout after {LIMIT} s"
    took = time.monotonic() - began
    logged = log.read_text(errors="replace")
    good = status == 0
    if not good:
        logged += f"\n{page.relative_to(ROOT)}: failed (status {status})"
    if keep or not good:
        logged += f"\nfiles: {directory}"
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return page, count, took, logged, good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/debug/leastconn-lb")
    parser.add_argument("--keep", action="store_true", help="keep the directories, and print all output")
    parser.add_argument("pages", nargs="*", type=Path)
    options = parser.parse_args()
    binary = options.binary.resolve()
    if not os.access(binary, os.X_OK):
        sys.exit(f"docs-test: {binary} does not exist: cargo build -p leastconn-lb")
    # Some pages switch to another user, which is not possible in a user namespace.
    if os.geteuid() != 0:
        print("docs-test: skipped, because it needs root to create namespaces")
        return
    pages = [page.resolve() for page in options.pages] or sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    failed = False
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for page, count, took, logged, good in pool.map(lambda page: run(page, binary, options.keep), pages):
            if not good or (options.keep and count):
                print(logged)
            if count:
                print(f"{'ok' if good else 'FAILED'} {page.relative_to(ROOT)}: {count} blocks, {took:.1f} s", flush=True)
            failed |= not good
    sys.exit(failed)


main()
