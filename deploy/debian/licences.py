#!/usr/bin/env python3
"""Prints the licences of all crates that the release binary contains.

Uses cargo's metadata: the normal dependencies of leastconn-lb on this platform, without
build-time dependencies (procedural macros and their dependencies)."""

import json
import pathlib
import subprocess
import sys


def metadata():
    host = next(
        line.split()[1]
        for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines()
        if line.startswith("host:")
    )
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    return json.loads(subprocess.check_output(command))


def contained(data, own=False):
    """Returns the packages in the binary, including those of this project if `own` is set."""
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = next(id for id, package in packages.items() if package["name"] == "leastconn-lb")
    seen, todo = set(), [root]
    while todo:
        id = todo.pop()
        kinds = {kind for target in packages[id]["targets"] for kind in target["kind"]}
        if id in seen or "proc-macro" in kinds:
            continue
        seen.add(id)
        for dep in nodes[id]["deps"]:
            if any(kind["kind"] is None for kind in dep["dep_kinds"]):
                todo.append(dep["pkg"])
    # The project's own licence is in `copyright`.
    found = (packages[id] for id in seen if own or packages[id]["source"])
    return sorted(found, key=lambda p: (p["name"], p["version"]))


def texts(package):
    directory = pathlib.Path(package["manifest_path"]).parent
    names = ("licen", "copying", "copyright", "notice", "unlicense")
    return sorted(p for p in directory.iterdir() if p.is_file() and p.name.lower().startswith(names))


def main():
    crates = contained(metadata())
    if len(crates) < 20:
        sys.exit(f"licences: only {len(crates)} crates were found; at least 20 are expected")
    print("The crates in leastconn-lb, their licences, and the texts that came with them.\n")
    for crate in crates:
        print(f"{crate['name']} {crate['version']}: {crate['license'] or 'see below'}")
    # Many crates share a licence text: print each once.
    shared = {}
    for crate in crates:
        for path in texts(crate):
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            shared.setdefault(text, []).append(f"{crate['name']} {crate['version']}: {path.name}")
    for text, names in shared.items():
        print("\n" + "=" * 78)
        print("\n".join(names))
        print("-" * 78)
        print(text)


if __name__ == "__main__":
    main()
