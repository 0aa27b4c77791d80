#!/usr/bin/env python3
"""Renders the chart, like `helm template`, without a cluster.

    render.py LIBRARY [VALUES.yaml]…

Uses `helm` if it is installed (LIBRARY is then ignored). Otherwise LIBRARY is the shared library
of the PyPI package helm-sdkpy, which contains Helm. That library has no `template`, but `lint`
executes the templates and logs what they pass to `fail`. Therefore this script makes a copy of the
chart that renders all templates into the argument of `fail`, and lints that copy.
"""

import base64
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHART = Path(__file__).resolve().parent / "leastconn"


def values(chart, files):
    """Merges `files` into values.yaml of the chart."""
    import yaml

    def merge(into, more):
        for key, value in more.items():
            if isinstance(value, dict) and isinstance(into.get(key), dict):
                merge(into[key], value)
            else:
                into[key] = value

    merged = yaml.safe_load((chart / "values.yaml").read_text())
    for file in files:
        merge(merged, yaml.safe_load(Path(file).read_text()))
    (chart / "values.yaml").write_text(yaml.safe_dump(merged))


def lint(library, chart):
    handle = ctypes.c_ulonglong()
    library.helm_sdkpy_last_error.restype = ctypes.c_char_p
    if library.helm_sdkpy_config_create(b"default", None, None, b"{}", ctypes.byref(handle)) != 0:
        sys.exit(f"render: {library.helm_sdkpy_last_error().decode()}")
    result = ctypes.c_char_p()
    if library.helm_sdkpy_lint(handle, str(chart).encode(), ctypes.byref(result)) != 0:
        sys.exit(f"render: {library.helm_sdkpy_last_error().decode()}")
    return json.loads(result.value)


def by_library(path, files):
    library = ctypes.CDLL(path)
    with tempfile.TemporaryDirectory() as directory:
        chart = Path(directory) / "leastconn"
        shutil.copytree(CHART, chart)
        values(chart, files)
        # First lint the unchanged chart, to find its problems. Severity 2 is a warning, 3 an error.
        found = [message for message in lint(library, chart)["Messages"] or [] if message["Severity"] > 1]
        if found:
            sys.exit(f"render: {json.dumps(found)}")
        names = []
        for template in sorted((chart / "templates").glob("*.yaml")):
            name = f"render.{template.stem}"
            names.append(name)
            body = '{{- define "%s" }}\n%s\n{{- end }}\n' % (name, template.read_text())
            (chart / "templates" / f"_render_{template.stem}.tpl").write_text(body)
            template.unlink()
        parts = " ".join(f'(include "{name}" .)' for name in names)
        (chart / "templates" / "all.yaml").write_text(
            '{{ fail (printf "RENDERED<%%s>" (b64enc (join "\\n---\\n" (list %s)))) }}\n' % parts
        )
        # The library logs to standard error.
        with tempfile.TemporaryFile() as log:
            saved = os.dup(2)
            os.dup2(log.fileno(), 2)
            try:
                result = lint(library, chart)
            finally:
                os.dup2(saved, 2)
            log.seek(0)
            text = log.read().decode(errors="replace") + json.dumps(result)
    found = re.search(r"RENDERED<([A-Za-z0-9+/=]+)>", text)
    if not found:
        sys.exit(f"render: {text}")
    # `lint` sets no namespace.
    return base64.b64decode(found[1]).decode().replace("namespace: \n", "namespace: leastconn\n")


def main():
    library, *files = sys.argv[1:]
    if shutil.which("helm"):
        options = [option for file in files for option in ("--values", file)]
        command = ["helm", "template", "leastconn", str(CHART), "--namespace", "leastconn", *options]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    else:
        print(by_library(library, files))


main()
