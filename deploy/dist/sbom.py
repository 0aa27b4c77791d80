#!/usr/bin/env python3
"""Prints a software bill of materials for the release binary: CycloneDX 1.6, JSON.

It lists the crates that the binary contains (the normal dependencies of leastconn-lb on this
platform), with versions, licences, checksums from Cargo.lock, and dependencies. The same commit
always gives the same output: SOURCE_DATE_EPOCH is the only time in it."""

import datetime
import json
import os
import pathlib
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy/debian"))
import licences  # noqa: E402


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    entry = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
    }
    if package["license"]:
        # `/` is an old separator of cargo, which is not valid in SPDX expressions.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def main():
    data = licences.metadata()
    packages = {package["id"]: package for package in data["packages"]}
    root = next(package for package in data["packages"] if package["name"] == "leastconn-lb")
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    contained = licences.contained(data, own=True)
    known = {package["id"] for package in contained}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    dependencies = []
    for package in contained:
        deps = nodes[package["id"]]["deps"]
        normal = {d["pkg"] for d in deps if any(kind["kind"] is None for kind in d["dep_kinds"])}
        refs = sorted(purl(packages[id]) for id in normal & known)
        dependencies.append({"ref": purl(package), "dependsOn": refs})
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    time = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
    main_component = component(root, checksums) | {"type": "application"}
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": main_component,
        },
        "components": [component(p, checksums) for p in contained if p["id"] != root["id"]],
        "dependencies": dependencies,
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


main()
