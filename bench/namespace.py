"""A network namespace for programs that send a lot of traffic on loopback."""

import os
import shutil
import subprocess
import sys

VARIABLE = "LEASTCONN_BENCH_NAMESPACE"
LOOPBACK_UP = ["ip", "link", "set", "lo", "up"]


def enter_namespace():
    """Restarts this program in a new network namespace, if it runs as root and the kernel permits it."""
    if os.environ.get(VARIABLE):
        subprocess.run(LOOPBACK_UP, check=True)
        return
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return
    usable = subprocess.run(["unshare", "--net", *LOOPBACK_UP], capture_output=True)
    if usable.returncode == 0:
        os.environ[VARIABLE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
