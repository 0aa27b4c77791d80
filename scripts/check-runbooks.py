#!/usr/bin/env python3
"""Checks that every alert in deploy/prometheus has a section in docs/runbooks.md with symptom,
meaning, three first commands, remedy and verification, and links to it. Prints every violation.
The exit code is 1 if there is a violation."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = "deploy/prometheus/leastconn-rules.yml"
PAGE = "docs/runbooks.md"

problems = []
rules = (ROOT / RULES).read_text()
page = (ROOT / PAGE).read_text()

alerts = {name: body for name, body in re.findall(r"- alert: (\w+)\n(.*?)(?=- alert: |\Z)", rules, re.DOTALL)}
sections = {name: body for name, body in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)}

for name in alerts.keys() - sections.keys():
    problems.append(f"{PAGE} has no section `## {name}` for this alert")
for name in sections.keys() - alerts.keys():
    problems.append(f"{PAGE} has a section {name}, but {RULES} has no such alert")
for name, body in alerts.items():
    link = f'runbook_url: "{PAGE}#{name.lower()}"'
    if link not in body:
        problems.append(f"{RULES}: {name} lacks the annotation {link}")
    severity = re.search(r"severity: (\w+)", body)
    row = f"| [{name}](#{name.lower()}) | {severity[1] if severity else '?'} |"
    if row not in page:
        problems.append(f"{PAGE}: the table of alerts has no row that starts with {row}")
for name in alerts.keys() & sections.keys():
    body = sections[name]
    for part in ("\n| Symptom | ", "\n| Meaning | ", "\nFirst commands:\n", "\nRemedy:", "\nVerification:"):
        if part not in body:
            problems.append(f"{PAGE}: {name} lacks `{part.strip()}`")
    first = re.search(r"First commands:\n\n```sh run\n(.*?)```", body, re.DOTALL)
    commands = len(first[1].strip().splitlines()) if first else 0
    if commands != 3:
        problems.append(f"{PAGE}: {name} has {commands} first commands instead of 3")

for problem in sorted(problems):
    print(f"check-runbooks: {problem}", file=sys.stderr)
sys.exit(bool(problems))
