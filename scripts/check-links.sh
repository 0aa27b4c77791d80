#!/usr/bin/env bash
# Checks that every relative link in a Markdown file of the repository resolves: the
# file or directory exists, and so does the heading that an anchor names. Links to
# other sites are not checked. Prints every broken link. The exit code is 1 if there is a
# broken link.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck disable=SC2016 # the quoted text is Python
git ls-files -z --cached --others --exclude-standard -- '*.md' | python3 -c '
import html, re, sys
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1[`~]* *$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
INLINE = re.compile(r"\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+[\"\x27(][^)]*)?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s<>]+)", re.MULTILINE)
ATTRIBUTE = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=\"([^\"\s]+)", re.IGNORECASE)
ANCHOR = re.compile(r"<\w+\b[^>]*?\b(?:id|name)=\"([^\"]+)\"", re.IGNORECASE)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)


def text_of(file):
    return FENCE.sub("", file.read_text())


def anchors(file, known={}):
    """Returns the anchors in HTML, and those that a code host generates from headings."""
    if file not in known:
        text, found = text_of(file), set()
        for title in HEADING.findall(text):
            title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
            title = html.unescape(re.sub(r"</?\w[^>]*>", "", title))
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            number, unique = 0, slug
            while unique in found:
                number += 1
                unique = f"{slug}-{number}"
            found.add(unique)
        known[file] = found | set(ANCHOR.findall(text))
    return known[file]


failed = False
for name in sorted(filter(None, sys.stdin.read().split("\0"))):
    file = Path(name)
    if not file.exists():
        continue
    text = CODE.sub("", text_of(file))
    links = INLINE.findall(text) + REFERENCE.findall(text) + ATTRIBUTE.findall(text)
    for link in dict.fromkeys(links):
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", link):
            continue
        path, _, anchor = link.partition("#")
        path = unquote(path)
        if not path:
            target = file
        elif path.startswith("/"):
            target = Path(path[1:])
        else:
            target = file.parent / path
        if not target.exists():
            problem = "which does not exist"
        elif anchor and target.suffix == ".md" and unquote(anchor) not in anchors(target.resolve()):
            problem = f"but {target} has no heading #{anchor}"
        else:
            continue
        print(f"check-links: {name} links to {link}, {problem}", file=sys.stderr)
        failed = True
sys.exit(1 if failed else 0)
'
