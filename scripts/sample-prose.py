#!/usr/bin/env python3
"""Print a random sample of comments, log messages and paragraphs for a language review.

    scripts/sample-prose.py SEED [COMMENTS LOGS PARAGRAPHS]

The defaults are 30, 10 and 10. The same seed on the same commit gives the same sample.
Give the output to a reader who does not know the code, and ask for a mark on every text
that the reader had to read twice. See CONTRIBUTING.md.
"""
import random
import re
import subprocess
import sys


def tracked(*patterns):
    """Yield the path and text of each tracked file that matches."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], capture_output=True, text=True, check=True
    ).stdout
    for name in sorted(filter(None, names.split("\0"))):
        with open(name, encoding="utf-8") as file:
            yield name, file.read()


def comments(name, text):
    """Yield each block of comment lines with the line of code that follows it."""
    for block, code in re.findall(r"(?m)((?:^[ \t]*//.*\n)+)(.*)", text):
        prose = "\n".join(re.sub(r"^[ \t]*//[/!]? ?", "", line) for line in block.splitlines())
        if len(prose.split()) > 2:
            yield f"{name}\n{prose}\n    {code.strip()}"


def logs(name, text):
    """Yield each call of a logging macro."""
    for call in re.findall(r"\b(?:tracing::)?(?:error|warn|info|debug)!\((?:[^;]*?)\);", text):
        yield f"{name}\n{call}"


def paragraphs(name, text):
    """Yield each paragraph of a document; code blocks and tables are left out."""
    text = re.sub(r"(?s)^```.*?^```", "", text, flags=re.M)
    for part in re.split(r"\n\s*\n", text):
        if len(part.split()) > 8 and not part.lstrip().startswith(("|", "#", "<")):
            yield f"{name}\n{part.strip()}"


def main():
    if len(sys.argv) not in (2, 5):
        sys.exit(__doc__)
    counts = [int(count) for count in sys.argv[2:]] or [30, 10, 10]
    draw = random.Random(int(sys.argv[1]))
    for title, extract, patterns, count in (
        ("comment", comments, ("*.rs",), counts[0]),
        ("log message", logs, ("crates/*/src/*.rs",), counts[1]),
        ("paragraph", paragraphs, ("*.md",), counts[2]),
    ):
        found = [item for name, text in tracked(*patterns) for item in extract(name, text)]
        for number, item in enumerate(draw.sample(found, min(count, len(found))), 1):
            print(f"--- {title} {number}: {item}\n")


main()
